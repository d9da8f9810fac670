//! The fused head in use: injected into a model, in bfloat16, handed the wrong things.

use ndarray::Array2;
use retort_policies::objective::divergence::Divergence;
use retort_policies::objective::head::{Chunks, HeadGrads, Want, fused_in, fused_scaled};
use retort_policies::objective::input::{Head, Input, Side};
use retort_policies::objective::term::{Loss, Term};
use tch::{Kind, Tensor};

use crate::support::{Numbers, array, numbers, off, off_by_norm, tensor};

const CHUNKS: Chunks = Chunks { tokens: 2, block: 1 };

/// The gradient at the hidden states reaches the model as that of a plain loss would.
#[test]
fn injected_gradient_equals_plain_autograd() {
    let mut r = Numbers::new(7);
    let (x, body) = (tensor(&r.matrix(6, 5, 1.0), Kind::Double), tensor(&r.matrix(5, 4, 1.0), Kind::Double));
    // A tied head: its weight is the table that the states came from, too.
    let (weight, p) =
        (tensor(&r.matrix(9, 4, 1.0), Kind::Double), tensor(&r.matrix(6, 9, 1.0), Kind::Double));
    let (body, weight) = (body.set_requires_grad(true), weight.set_requires_grad(true));
    let states = || (x.matmul(&body) + weight.narrow(0, 0, 6)).tanh();
    let plain = {
        let lq = states().matmul(&weight.transpose(0, 1)).log_softmax(-1, None::<Kind>);
        let lp = p.log_softmax(-1, None::<Kind>);
        (lq.exp() * (&lq - lp)).sum(None::<Kind>)
    };
    plain.backward();
    let expected = [array(&body.grad()), array(&weight.grad())];
    let (mut body_grad, mut weight_grad) = (body.grad(), weight.grad());
    let (_, _) = (body_grad.zero_(), weight_grad.zero_());

    let hidden = states();
    let head = Head { weight_vd: &weight, bias_v: None, softcap: None };
    let mut grads = HeadGrads::zeros(&head).unwrap();
    let input = Input {
        student: Side::Hidden { hidden_nd: &hidden, head },
        teacher: Some(Side::Logits(&p)),
        targets_n: &Tensor::from_slice(&[0i64; 6]),
        vocabulary: 9,
        barred: None,
        teacher_temperature: 1.0,
    };
    let terms = [Term::new("reverse-kl", Loss::Divergence(Divergence::ReverseKl), 1.0)];
    let made = fused_in(&input, &terms, Want::Head(&mut grads), CHUNKS).unwrap();
    assert!(!made.loss.requires_grad() && !grads.weight_vd.requires_grad());
    (&hidden * made.grad.unwrap()).sum(None::<Kind>).backward();
    let tied = weight.grad() + grads.weight_vd;
    assert!(off_by_norm(&array(&body.grad()), &expected[0], 1e-12) <= 1.0);
    assert!(off_by_norm(&array(&tied), &expected[1], 1e-12) <= 1.0);
    // What a caller who forgot the head's part of a tied weight would have.
    assert!(off_by_norm(&array(&weight.grad()), &expected[1], 1e-12) > 100.0);
    assert!((made.loss.double_value(&[]) - plain.double_value(&[])).abs() < 1e-12);
}

/// A number for each token multiplies its gradient, at the states and at the head, and no value.
#[test]
fn gradients_are_scaled_token_by_token() {
    let mut r = Numbers::new(5);
    let (hidden, weight) =
        (tensor(&r.matrix(6, 4, 1.0), Kind::Double), tensor(&r.matrix(9, 4, 1.0), Kind::Double));
    let p = tensor(&r.matrix(6, 9, 1.0), Kind::Double);
    let head = Head { weight_vd: &weight, bias_v: None, softcap: None };
    let scales = [2.0, -0.5, 0.0, 1.0, 3.0, 0.25];
    let terms = [
        Term::new("ce", Loss::CrossEntropy, 0.5),
        Term::new("d", Loss::Divergence(Divergence::ReverseKl), 0.5),
    ];
    let targets = Tensor::from_slice(&[0i64, 3, 8, 1, 1, 5]);
    // Some of the tokens, each by itself where `scale` is none.
    let run = |from: i64, count: i64, scale: Option<&Tensor>| {
        let (states, p_nv) = (hidden.narrow(0, from, count), p.narrow(0, from, count));
        let input = Input {
            student: Side::Hidden { hidden_nd: &states, head },
            teacher: Some(Side::Logits(&p_nv)),
            targets_n: &targets.narrow(0, from, count),
            vocabulary: 9,
            barred: None,
            teacher_temperature: 1.0,
        };
        let mut grads = HeadGrads::zeros(&head).unwrap();
        let made = fused_scaled(&input, &terms, Want::Head(&mut grads), scale).unwrap();
        (made.loss.double_value(&[]), array(&made.grad.unwrap()), array(&grads.weight_vd))
    };
    let (loss, by_hidden, by_weight) = run(0, 6, Some(&Tensor::from_slice(&scales)));
    assert!((loss - run(0, 6, None).0).abs() < 1e-12);
    let mut sum = Array2::zeros((9, 4));
    for (at, scale) in scales.into_iter().enumerate() {
        let (_, one, head) = run(at as i64, 1, None);
        sum = sum + head * scale;
        for (a, b) in by_hidden.row(at).iter().zip(one.row(0)) {
            assert!((a - scale * b).abs() < 1e-12, "token {at}: {a} and {b} x {scale}");
        }
    }
    assert!(off_by_norm(&by_weight, &sum, 1e-12) <= 1.0);
}

/// bfloat16 states and weights: softmax and sums are float32, so the loss is that of the rounded logits on a
/// processor that multiplies bfloat16, and of the exact ones where it is widened first.
#[test]
fn bfloat16_heads_are_summed_in_float32() {
    let mut r = Numbers::new(9);
    let of = |a: Array2<f64>| tensor(&a, Kind::BFloat16);
    let (hidden, weight) = (of(r.matrix(40, 16, 1.0)), of(r.matrix(50, 16, 0.5)));
    let p = of(r.matrix(40, 50, 2.0));
    let head = Head { weight_vd: &weight, bias_v: None, softcap: None };
    let terms = [Term::new("d", Loss::Divergence(Divergence::ForwardKl), 1.0)];
    let targets = Tensor::from_slice(&[0i64; 40]);
    let run = |student: Side, want: Want| {
        let input = Input {
            student,
            teacher: Some(Side::Logits(&p)),
            targets_n: &targets,
            vocabulary: 50,
            barred: None,
            teacher_temperature: 1.0,
        };
        fused_in(&input, &terms, want, CHUNKS).unwrap()
    };
    let mut grads = HeadGrads::zeros(&head).unwrap();
    let made = run(Side::Hidden { hidden_nd: &hidden, head }, Want::Head(&mut grads));
    assert_eq!((grads.weight_vd.kind(), made.values_kn.kind()), (Kind::Float, Kind::Float));
    let exact = hidden.to_kind(Kind::Double).matmul(&weight.to_kind(Kind::Double).transpose(0, 1));
    let rounded = hidden.matmul(&weight.transpose(0, 1)).to_kind(Kind::Double);
    let [wide, narrow] = [&exact, &rounded].map(|z| run(Side::Logits(z), Want::Hidden));
    let near = |of: &Tensor| off(&numbers(&made.values_kn), &numbers(of), 1e-5, 1e-5) <= 1.0;
    let (to_wide, to_narrow) = (near(&wide.values_kn), near(&narrow.values_kn));
    assert!(to_wide != to_narrow, "one of the two, and they differ: {to_wide} {to_narrow}");
    let slope = wide.grad.unwrap();
    let expected = slope.transpose(0, 1).matmul(&hidden.to_kind(Kind::Double));
    // 1/256 is bfloat16's own rounding of each derivative; forty of them added up in bfloat16 would be worse.
    assert!(off_by_norm(&array(&grads.weight_vd), &array(&expected), 1.0 / 256.0) <= 1.0);
}

#[test]
fn wrong_shapes_are_errors_and_no_panics() {
    let t = |rows: i64, columns: i64| Tensor::zeros([rows, columns], tch::kind::FLOAT_CPU);
    let targets = Tensor::from_slice(&[0i64, 1]);
    let terms = [Term::new("d", Loss::Divergence(Divergence::ReverseKl), 1.0)];
    let run = |q: &Tensor, p: Option<&Tensor>, v: i64, heat: f64| {
        let (student, teacher) = (Side::Logits(q), p.map(Side::Logits));
        let input = Input {
            student,
            teacher,
            targets_n: &targets,
            vocabulary: v,
            barred: None,
            teacher_temperature: heat,
        };
        fused_in(&input, &terms, Want::Hidden, CHUNKS).map(|_| ())
    };
    assert!(run(&t(2, 5), Some(&t(2, 5)), 5, 1.0).is_ok());
    for (q, p, v, heat) in [
        (t(3, 5), Some(t(2, 5)), 5, 1.0),
        (t(2, 5), Some(t(1, 5)), 5, 1.0),
        (t(2, 5), Some(t(2, 4)), 5, 1.0),
        (t(2, 5), None, 5, 1.0),
        (t(2, 5), Some(t(2, 5)), 0, 1.0),
        (t(2, 5), Some(t(2, 5)), 5, 0.0),
        (t(2, 5), Some(t(2, 5)), 5, f64::NAN),
    ] {
        assert!(run(&q, p.as_ref(), v, heat).is_err());
    }
}
