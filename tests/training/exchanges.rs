//! What several processes exchange: every rank finds the same.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use retort::dist::{Dealing, Launch, World, children};
use retort::error::Cause;
use retort::native::group::Store;
use tch::{Device, Tensor};

use crate::text_of;

/// Where a test that runs itself as ranks tells them to be ranks.
const AS_RANK: &str = "RETORT_TEST_AS_RANK";

/// What one rank of three finds in every exchange; the test below starts three of it.
#[test]
fn as_one_rank() {
    if text_of(AS_RANK).is_none() {
        return;
    }
    let launch = Launch::from_environment().unwrap().unwrap();
    let world = World::join(&launch, Duration::from_secs(20)).unwrap();
    let rank = world.rank() as f32;
    let of = |values: &[f32]| Tensor::from_slice(values);
    let values = |t: &Tensor| Vec::<f32>::try_from(t.flatten(0, -1)).unwrap();
    let (many, few) = (of(&[rank, 1.0, 0.5]).view([3, 1]), of(&[rank; 5]));
    world.all_reduce(&[many.shallow_clone(), few.shallow_clone()]).unwrap();
    assert_eq!((values(&many), values(&few)), (vec![3.0, 3.0, 1.5], vec![3.0; 5]));
    let gathered = world.all_gather(&of(&[rank, -rank])).unwrap();
    assert_eq!(gathered.iter().map(values).collect::<Vec<_>>(), [[0.0, 0.0], [1.0, -1.0], [2.0, -2.0]]);
    let given = of(&[rank, 7.0]);
    world.broadcast(&[given.shallow_clone()], 2).unwrap();
    assert_eq!(values(&given), [2.0, 7.0]);
    let part = world.reduce_scatter(&of(&[1.0, 10.0, 100.0 + rank])).unwrap();
    assert_eq!(values(&part), [[3.0, 30.0, 303.0][world.rank()]]);
    let words = ["", "two", "longer than two"];
    assert_eq!(
        world.gather_bytes(words[world.rank()].as_bytes()).unwrap(),
        words.map(|w| w.as_bytes().to_vec())
    );
    let third = [f64::MIN_POSITIVE, 1.0 / 3.0, -0.0][world.rank()];
    let all: Vec<u64> =
        world.gather_numbers(&[third]).unwrap().concat().iter().map(|x| x.to_bits()).collect();
    assert_eq!(all, [f64::MIN_POSITIVE, 1.0 / 3.0, -0.0].map(f64::to_bits));
    assert_eq!(world.sum(if rank == 1.0 { &[] } else { &[2.0, 1.0] }).unwrap(), [4.0, 2.0]);
    world.barrier().unwrap();
    work_goes_to_whoever_is_free(&world);
    // A signal at one is one at all.
    assert!(world.agree(Ok(())).is_ok());
    let own =
        if rank == 1.0 { Err(retort::error::Error::new(Cause::Stopped(15), "stopped")) } else { Ok(()) };
    assert_eq!(world.agree(own).unwrap_err().cause(), Cause::Stopped(15));
    world.barrier().unwrap();
}

/// Of three ranks the slow one does least of what is left for later, and every piece is done once.
fn work_goes_to_whoever_is_free(world: &World) {
    let first = vec![vec![0], vec![1], vec![2]];
    let dealing = Dealing { first, later: (3..15).map(|n| vec![n]).collect() };
    let mut own: Vec<u8> = Vec::new();
    let slow = world.rank() == 2;
    let worked = world.work(&dealing, &mut |pieces| {
        std::thread::sleep(Duration::from_millis(if slow { 400 } else { 5 }));
        own.extend(pieces.iter().map(|&n| n as u8));
        Ok(())
    });
    worked.unwrap();
    let all = world.gather_bytes(&own).unwrap();
    let mut done = all.concat();
    done.sort();
    assert_eq!(done, (0..15).collect::<Vec<u8>>());
    assert!(all[2].len() < all[0].len().max(all[1].len()), "{all:?}");
    assert!((0..3).all(|rank| all[rank][0] == rank as u8), "{all:?}");
    // The next dealing begins anew.
    let one = Dealing { first: vec![vec![]; 3], later: vec![vec![7]] };
    let mut count = 0;
    let worked = world.work(&one, &mut |pieces| {
        count += pieces.len();
        Ok(())
    });
    worked.unwrap();
    assert_eq!(world.sum(&[f64::from(count as u8)]).unwrap(), [1.0]);
}

#[test]
fn exchanges_give_every_rank_the_same() {
    let store = Store::open("127.0.0.1", 0, true, "test", Duration::from_secs(20)).unwrap();
    let start = |rank| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "exchanges::as_one_rank", "--nocapture"]).env(AS_RANK, "1");
        command.envs(children(rank, 3, store.port())).env("GLOO_SOCKET_IFNAME", "lo");
        command.stdout(Stdio::null()).spawn().unwrap()
    };
    let ranks: Vec<Child> = (0..3).map(start).collect();
    for (rank, mut child) in ranks.into_iter().enumerate() {
        assert!(child.wait().unwrap().success(), "rank {rank}");
    }
}

/// Of one, and through the exchanges nonetheless.
#[test]
fn a_world_of_one_can_go_through_its_exchanges() {
    let world = World::meet(&Launch::alone(), Duration::from_secs(20), Device::Cpu).unwrap();
    let own = Tensor::from_slice(&[0.1f32, -3.0]);
    world.all_reduce(&[own.shallow_clone()]).unwrap();
    world.broadcast(&[own.shallow_clone()], 0).unwrap();
    let part = world.reduce_scatter(&own).unwrap();
    for same in [&own, &part, &world.all_gather(&own).unwrap()[0]] {
        assert_eq!(Vec::<f32>::try_from(same).unwrap(), [0.1, -3.0]);
    }
    world.barrier().unwrap();
    assert!(!world.spent().is_zero() && world.exchanges_on(Device::Cpu));
    assert!(!world.exchanges_on(Device::Cuda(0)), "no GPU was asked for");
}
