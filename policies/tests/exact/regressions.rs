//! The mistakes that users of other systems report, each under its name. Every test also shows the
//! mistake itself, and that it would be seen.

use ndarray::Array2;
use retort_policies::objective::divergence::Divergence;
use retort_policies::objective::head::{Chunks, HeadGrads, Want, fused, fused_in};
use retort_policies::objective::input::{Barred, Head, Input, Side};
use retort_policies::objective::returns::{Return, returns};
use retort_policies::objective::rows::{Rows, first_of_rows};
use retort_policies::objective::term::{Loss, Term};
use retort_policies::{Part, Rollout, View};
use serde_json::json;
use tch::{Device, Kind, Tensor};

use crate::cases::{INF, random};
use crate::divergences::ALL;
use crate::reference::divergence;
use crate::support::{Numbers, array, numbers, off, off_by_norm, tensor};
use crate::update::{Row, policy, prepared, score};

fn rollouts(seed: u64, lengths: &[usize]) -> (Vec<Row>, Vec<Rollout>) {
    let mut r = Numbers::new(seed);
    let rows: Vec<Row> = lengths.iter().map(|n| Row::random(&mut r, *n, 5)).collect();
    let numbers = rows.iter().map(|row| row.rollout(0.2)).collect();
    (rows, numbers)
}

/// trl#7024: a row's advantages are its own, whoever stands beside it and however long that one is.
#[test]
fn padding_never_reaches_the_advantage() {
    let (_, all) = rollouts(1, &[4, 9, 1]);
    for table in
        [json!({"preset": "paper"}), json!({"preset": "exact"}), json!({"preset": "lmops", "whiten": "none"})]
    {
        let policy = policy("minillm", table);
        let together = prepared(policy.as_ref(), &all, 9);
        for (i, row) in all.iter().enumerate() {
            let alone = prepared(policy.as_ref(), std::slice::from_ref(row), 400);
            assert_eq!(alone[0], together[i]);
            assert_eq!(alone[0].advantage.len(), row.log_p.len());
        }
        // The last token has nothing after it: with returns from the next token on it gets exactly 0.
        if policy.settings()["return_from"] == "next" {
            assert!(together.iter().all(|s| s.advantage.last() == Some(&0.0)));
        }
    }
}

/// trl#6626: gamma to the absolute position underflows, and dividing by it gives 0/0.
#[test]
fn gamma_counts_from_the_token_and_not_from_the_row() {
    let mut r = Numbers::new(2);
    let long: Vec<f64> = (0..30_000).map(|_| r.normal()).collect();
    let how = Return { start: 0, gamma: 0.95, length_norm: false };
    let made = returns(&long, how);
    assert!(made.iter().all(|a| a.is_finite()));
    let near =
        |t: usize| (0..800).map(|k| 0.95f64.powi(k as i32) * long.get(t + k).unwrap_or(&0.0)).sum::<f64>();
    for t in [0, 1, 14_000, 15_500, 29_998, 29_999] {
        assert!((made[t] - near(t)).abs() < 1e-12, "at {t}");
    }
    // The mistake: by the row's own powers, divided out again.
    let broken = |t: usize| {
        let powers = |u: usize| 0.95f64.powi(u as i32);
        (t..long.len()).map(|u| powers(u) * long[u]).sum::<f64>() / powers(t)
    };
    assert!((broken(1) - made[1]).abs() < 1e-9 && broken(29_000).is_nan());
}

/// trl#4719, ms-swift#10165: every policy's sums are those of the whole update, however it is cut. A mean
/// for each micro-batch is not.
#[test]
fn no_loss_depends_on_the_micro_batches() {
    let lengths = [3, 7, 1, 5];
    let (rows, recorded) = rollouts(3, &lengths);
    for (name, table) in [
        ("sft", json!({})),
        ("kd", json!({})),
        ("seqkd", json!({"ratio": 0.5})),
        ("minima", json!({"divergence": "akl"})),
        ("gkd", json!({})),
        ("distillm", json!({})),
        ("onpolicy", json!({})),
        ("minillm", json!({"preset": "lmops"})),
        ("minillm", json!({"preset": "paper", "whiten": "masked"})),
    ] {
        let policy = policy(name, table);
        let signals = prepared(policy.as_ref(), &recorded, 7);
        let whole = score(policy.as_ref(), Part::Main, &rows, &signals, &[4], Kind::Double);
        for cut in [vec![1, 1, 1, 1], vec![1, 3], vec![2, 2]] {
            let made = score(policy.as_ref(), Part::Main, &rows, &signals, &cut, Kind::Double);
            assert!(off(&[made.loss], &[whole.loss], 1e-12, 1e-12) <= 1.0, "{name}, {cut:?}");
            assert_eq!(made.tokens, 16);
            for (a, b) in made.grads.iter().zip(&whole.grads) {
                assert!(off_by_norm(a, b, 1e-12) <= 1.0, "{name}, {cut:?}");
            }
            for (a, b) in made.terms.iter().zip(&whole.terms) {
                assert!(a.0 == b.0 && off(&[a.1], &[b.1], 1e-12, 1e-12) <= 1.0, "{name}, {cut:?}");
            }
        }
        let ones: Vec<f64> = (0..4)
            .map(|i| {
                let own = signals.get(i..=i).unwrap_or_default();
                let made = score(policy.as_ref(), Part::Main, &rows[i..=i], own, &[1], Kind::Double);
                made.loss / made.tokens as f64
            })
            .collect();
        let mean_of_means = ones.iter().sum::<f64>() / 4.0;
        assert!((mean_of_means - whole.loss / 16.0).abs() > 1e-3, "{name}: the mistake would not show");
    }
}

/// trl#6357: where pad and EOS are one id, a mask by id loses the EOS, and the student never stops.
#[test]
fn eos_is_learnt_where_it_is_the_pad() {
    let (eos, v) = (3i64, 5usize);
    let mut r = Numbers::new(4);
    let z = tensor(&r.matrix(2 * 6, v, 1.0), Kind::Double).view([2, 6, v as i64]);
    // Two rows of prompt, response, EOS, padding; the pad is the EOS.
    let ids = Tensor::from_slice(&[0i64, 1, 2, eos, eos, eos, 1, 4, eos, eos, eos, eos]).view([2, 6]);
    // The states that predict "2, EOS" and "4, EOS".
    let (states, scored) =
        (Rows::new(6, vec![(1, 2), (0, 2)]).unwrap(), Rows::new(6, vec![(2, 2), (1, 2)]).unwrap());
    let (z_nv, targets_n) = (states.pack(&z).unwrap(), scored.pack(&ids).unwrap());
    assert_eq!(Vec::<i64>::try_from(&targets_n).unwrap(), [2, eos, 4, eos]);
    let view = View {
        part: Part::Main,
        student: Side::Logits(&z_nv),
        teacher: None,
        targets_n: &targets_n,
        lengths: &states.lengths(),
        signals: &[],
        vocabulary: v as i64,
        scale_n: None,
        barred: None,
        want: Want::Hidden,
    };
    let made = policy("sft", json!({})).score(view).unwrap();
    let grad = array(made.grad.as_ref().unwrap());
    assert_eq!(made.tokens, 4);
    for t in [1, 3] {
        assert!(grad[[t, eos as usize]] < -0.01, "the EOS of row {} is not learnt", t / 2);
    }
    // The mistake: with a mask by id these would be the tokens.
    let by_id = i64::try_from(targets_n.not_equal(eos).sum(Kind::Int64)).unwrap();
    assert_eq!(by_id, 2);
}

/// trl#5594: -inf in padding, in barred words, in the vocabulary's own padding: no NaN anywhere.
#[test]
fn minus_infinity_makes_no_nan() {
    let mut r = Numbers::new(5);
    let rows = Rows::new(4, vec![(0, 2), (1, 3)]).unwrap();
    let garbage = |fill: f64, r: &mut Numbers| {
        let z = tensor(&r.matrix(8, 7, 1.0), Kind::Float).view([2, 4, 7]);
        for (row, t) in [(0, 2), (0, 3), (1, 0)] {
            let _ = z.select(0, row).select(0, t).fill_(fill);
        }
        // Behind the vocabulary of 5.
        let _ = z.narrow(2, 5, 2).fill_(fill);
        z
    };
    let clean = |z: &Tensor| z.nan_to_num(0.0, 0.0, 0.0);
    for fill in [-INF, INF, f64::NAN, 1e30] {
        let (q, p) = (garbage(fill, &mut r), garbage(fill, &mut r));
        let at_n = first_of_rows(&rows.lengths(), 1, Device::Cpu).unwrap();
        assert_eq!(Vec::<bool>::try_from(&at_n).unwrap(), [true, false, true, false, false]);
        for which in ALL {
            let run = |q: &Tensor, p: &Tensor| {
                let q = q.detach().set_requires_grad(true);
                let (q_nv, p_nv) = (rows.pack(&q).unwrap(), rows.pack(p).unwrap());
                let input = Input {
                    student: Side::Logits(&q_nv),
                    teacher: Some(Side::Logits(&p_nv)),
                    targets_n: &Tensor::from_slice(&[1i64, 2, 1, 0, 4]),
                    vocabulary: 5,
                    barred: Some(Barred { ids: &[3], at_n: &at_n }),
                    teacher_temperature: 1.0,
                };
                let terms =
                    [Term::new("d", Loss::Divergence(which), 1.0), Term::new("ce", Loss::CrossEntropy, 1.0)];
                let made = fused(&input, &terms, Want::Hidden).unwrap();
                let grad_nv = made.grad.unwrap();
                (&q_nv * &grad_nv).narrow(1, 0, 5).sum(None::<Kind>).backward();
                assert_eq!(q.grad().isnan().any().int64_value(&[]), 0, "{which:?}, {fill}");
                (made.loss.double_value(&[]), grad_nv)
            };
            let (loss, grad) = run(&q, &p);
            assert!(loss.is_finite() && numbers(&grad).iter().all(|g| g.is_finite()), "{which:?}, {fill}");
            assert_eq!(numbers(&grad.narrow(1, 5, 2)), [0.0; 10], "the vocabulary's padding learns");
            let (other_loss, other) = run(&clean(&q), &clean(&p));
            assert_eq!((loss, numbers(&grad)), (other_loss, numbers(&other)), "{which:?}, {fill}");
        }
    }
    // The mistake: 0 times the logarithm of 0.
    let lq = Tensor::from_slice(&[0.0f64, -INF]).log_softmax(-1, None::<Kind>);
    assert!((lq.exp() * (&lq - &lq)).sum(None::<Kind>).double_value(&[]).is_nan());
}

/// trl#2215, LMOps#286: one family pads its vocabulary to 151936 here and to 152064 there. Cut to the
/// tokenizer's size, both are one vocabulary.
#[test]
fn vocabularies_padded_differently_are_cut() {
    let (case, mut r) = (random(6, 4, 9, 1.5), Numbers::new(7));
    let widen = |z: &Array2<f64>, by: usize, r: &mut Numbers| {
        ndarray::concatenate(ndarray::Axis(1), &[z.view(), r.matrix(4, by, 5.0).view()]).unwrap()
    };
    let (q, p) =
        (tensor(&widen(&case.q, 2, &mut r), Kind::Double), tensor(&widen(&case.p, 6, &mut r), Kind::Double));
    for which in ALL {
        let run = |vocabulary: i64| {
            let input = Input {
                student: Side::Logits(&q),
                teacher: Some(Side::Logits(&p)),
                targets_n: &Tensor::from_slice(&case.targets),
                vocabulary,
                barred: None,
                teacher_temperature: 1.0,
            };
            let terms = [Term::new("d", Loss::Divergence(which), 1.0)];
            numbers(&fused(&input, &terms, Want::Values).unwrap().values_kn)
        };
        let one = |t: usize| divergence(which, case.q.row(t), case.p.row(t), case.q.row(t), None);
        let expected: Vec<f64> = (0..4).map(one).collect();
        assert!(off(&run(9), &expected, 1e-10, 1e-10) <= 1.0, "{which:?}");
        assert!(off(&run(11), &expected, 1e-10, 1e-10) > 100.0, "{which:?}: the padding would not show");
    }
}

/// Two replies compared by their mean divergence: one position of padding more turns the ranking round.
#[test]
fn an_unmasked_pad_position_would_invert_a_ranking() {
    // The first row agrees with its teacher; behind its end stands nonsense.
    let (mut q, mut p) = (Array2::<f64>::zeros((2 * 3, 4)), Array2::<f64>::zeros((2 * 3, 4)));
    (q[[2, 0]], p[[2, 1]]) = (9.0, 9.0);
    for t in 3..6 {
        (q[[t, 0]], p[[t, 0]]) = (1.0, 2.0);
    }
    let padded = |z: &Array2<f64>| tensor(z, Kind::Double).view([2, 3, 4]);
    let means = |lengths: [usize; 2]| -> [f64; 2] {
        [0, 1].map(|i| {
            let row = Rows::new(3, vec![(0, lengths[i])]).unwrap();
            let of = |z: &Array2<f64>| row.pack(&padded(z).narrow(0, i as i64, 1)).unwrap();
            let input = Input {
                student: Side::Logits(&of(&q)),
                teacher: Some(Side::Logits(&of(&p))),
                targets_n: &Tensor::zeros([lengths[i] as i64], (Kind::Int64, Device::Cpu)),
                vocabulary: 4,
                barred: None,
                teacher_temperature: 1.0,
            };
            let terms = [Term::new("d", Loss::Divergence(Divergence::ReverseKl), 1.0)];
            let made = fused(&input, &terms, Want::Values).unwrap();
            made.loss.double_value(&[]) / lengths[i] as f64
        })
    };
    let [first, second] = means([2, 3]);
    assert!(first < second);
    let [first, second] = means([3, 3]);
    assert!(first > second, "the mistake would not show");
}

/// ms-swift#10097, DistillKit#4: no tensor of tokens x vocabulary. What is alive at the peak does not grow
/// with the tokens, so ten times the tokens take no more than their own hidden states.
#[test]
fn memory_does_not_grow_with_tokens_times_vocabulary() {
    let (v, d) = (20_000, 4);
    let weight = Tensor::zeros([v, d], tch::kind::FLOAT_CPU);
    let head = Head { weight_vd: &weight, bias_v: None, softcap: None };
    let peak = |n: i64| {
        let hidden = Tensor::zeros([n, d], tch::kind::FLOAT_CPU);
        let side = Side::Hidden { hidden_nd: &hidden, head };
        let input = Input {
            student: side,
            teacher: Some(side),
            targets_n: &Tensor::zeros([n], (Kind::Int64, Device::Cpu)),
            vocabulary: v,
            barred: None,
            teacher_temperature: 1.0,
        };
        let mut grads = HeadGrads::zeros(&head).unwrap();
        let terms = [Term::new("d", Loss::Divergence(Divergence::ReverseKl), 1.0)];
        fused_in(&input, &terms, Want::Head(&mut grads), Chunks { tokens: 64, block: 8 }).unwrap();
        peak_mib()
    };
    let few = peak(64);
    // Whole logits of 2,048 tokens would be 156 MiB a tensor.
    let grown = peak(2048) - few;
    assert!(grown < 60.0, "the peak grew by {grown} MiB");
    // The mistake: one such tensor.
    let before = peak_mib();
    let whole = Tensor::ones([2048, v], tch::kind::FLOAT_CPU);
    assert!(peak_mib() - before > 100.0, "{} values would not show", whole.numel());
}

/// The process's highest memory so far. Other tests run beside this one; they are small.
fn peak_mib() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with("VmHWM"));
    line.and_then(|l| l.split_whitespace().nth(1)?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}
