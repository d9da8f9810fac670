//! Tensors that are not those of the model, and numbers that are none.

use half::{bf16, f16};

use super::folder::{Folder, One, Tensors};
use super::{Case, Run};

const NORM: &str = "model.norm.weight";
const HEAD: &str = "lm_head.weight";
const QUERY: &str = "model.layers.1.self_attn.q_proj.weight";

fn case(name: &str, says: &str, change: impl Fn(&mut Tensors) + 'static) -> Case {
    Case::new(format!("weights: {name}"), Run::Inspect, says, move |f| f.weights(&change))
}

fn floats(one: &One) -> Vec<f32> {
    one.data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn bytes_of(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// All tensors in another float type.
fn convert(tensors: &mut Tensors, dtype: &str) {
    for one in &mut tensors.all {
        one.data = match dtype {
            "F16" => floats(one).iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
            "BF16" => floats(one).iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
            "F64" => floats(one).iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect(),
            _ => one.data.clone(),
        };
        one.dtype = dtype.into();
    }
}

/// A number that is not finite in the middle of a tensor, in each float type.
fn not_finite() -> Vec<Case> {
    let mut all = Vec::new();
    for (dtype, size) in [("F32", 4), ("F16", 2), ("BF16", 2), ("F64", 8)] {
        for (name, x) in [("NaN", f32::NAN), ("inf", f32::INFINITY), ("-inf", f32::NEG_INFINITY)] {
            all.push(case(&format!("{name} in {dtype}"), "not finite", move |t| {
                convert(t, dtype);
                let bytes = match dtype {
                    "F16" => f16::from_f32(x).to_le_bytes().to_vec(),
                    "BF16" => bf16::from_f32(x).to_le_bytes().to_vec(),
                    "F64" => f64::from(x).to_le_bytes().to_vec(),
                    _ => x.to_le_bytes().to_vec(),
                };
                t.get(QUERY).data[7 * size..8 * size].copy_from_slice(&bytes);
            }));
        }
    }
    all
}

pub fn cases() -> Vec<Case> {
    let mut all = not_finite();
    all.extend(types());
    all.extend(names_and_shapes());
    all.extend(heads());
    all.extend(overflow());
    all
}

fn types() -> Vec<Case> {
    [("I64", 8), ("BOOL", 1), ("F8_E4M3", 1)]
        .map(|(dtype, size)| {
            case(&format!("a tensor of {dtype}"), "not of a float type", move |t| {
                let norm = t.get(NORM);
                (norm.dtype, norm.data) = (dtype.into(), vec![0; 20 * size]);
            })
        })
        .into()
}

fn names_and_shapes() -> Vec<Case> {
    vec![
        case("a tensor that is missing", "a tensor is missing", |t| {
            t.take(NORM);
        }),
        case("a layer that is missing", "and 8 more", |t| {
            t.all.retain(|one| !one.name.starts_with("model.layers.1."));
        }),
        case("a layer too many", "no place for", |t| {
            let extra = t.all.iter().filter(|one| one.name.starts_with("model.layers.1.")).cloned();
            let extra: Vec<One> =
                extra.map(|one| One { name: one.name.replace(".1.", ".2."), ..one }).collect();
            t.all.extend(extra);
        }),
        case("a bias that the model has not", "no place for", |t| {
            let norm = t.get(NORM).clone();
            t.all.push(One { name: "model.norm.bias".into(), ..norm });
        }),
        case("an adapter's tensor", "no place for", |t| {
            let norm = t.get(NORM).clone();
            t.all.push(One { name: "base_model.model.lora_A.weight".into(), ..norm });
        }),
        case("one tensor under two spellings", "there twice", |t| {
            let norm = t.get(NORM).clone();
            t.all.push(One { name: "norm.weight".into(), ..norm });
        }),
        case("a matrix that is transposed", "expected [24, 20], found [20, 24]", |t| {
            t.get("model.layers.0.mlp.up_proj.weight").shape.reverse();
        }),
        case("a vector that is a matrix", "expected [20], found [20, 1]", |t| t.get(NORM).shape.push(1)),
        case("one number that would be broadcast", "expected [20], found [1]", |t| {
            let norm = t.get(NORM);
            (norm.shape, norm.data) = (vec![1], vec![0; 4]);
        }),
        case("a tensor of no numbers", "expected [20], found [0]", |t| {
            let norm = t.get(NORM);
            (norm.shape, norm.data) = (vec![0], vec![]);
        }),
        case("a vocabulary cut by a row", "expected [352, 20], found [351, 20]", |t| {
            let head = t.get(HEAD);
            head.shape[0] = 351;
            head.data.truncate(351 * 80);
        }),
        case("weights of another model", "a tensor is missing", |t| {
            for one in &mut t.all {
                one.name = format!("bert.{}", one.name);
            }
        }),
    ]
}

fn heads() -> Vec<Case> {
    vec![
        case("no head, and none tied", "a tensor is missing", |t| {
            t.take(HEAD);
        }),
        Case::new(
            "weights: a tied head that differs",
            Run::Inspect,
            "differs from the embedding",
            |f: &Folder| {
                f.set("tie_word_embeddings", true.into());
            },
        ),
        Case::new("weights: a tied head of another type", Run::Inspect, "differs from the embedding", |f| {
            f.weights(|t| {
                let table =
                    t.all.iter().find(|one| one.name == "model.embed_tokens.weight").cloned().unwrap();
                let halves = floats(&table).iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
                t.all.push(One { name: HEAD.into(), dtype: "F16".into(), data: halves, ..table });
            });
        })
        .of("score/llama2"),
    ]
}

/// Every weight is finite and the answer is not: that is an error too, of its own code.
fn overflow() -> Vec<Case> {
    let huge = |f: &Folder| {
        f.weights(|t| {
            let head = t.get(HEAD);
            head.data = bytes_of(&floats(head).iter().map(|x| x.signum() * 3e38).collect::<Vec<_>>());
            let norm = t.get(NORM);
            norm.data = bytes_of(&[3e38; 20]);
        });
    };
    let angle = |f: &Folder| f.edit("config.json", |c| c["rope_parameters"]["rope_theta"] = 1e-300.into());
    vec![
        Case::new("weights: so large that a score overflows", Run::Score, "not finite", huge).code(5),
        Case::new("weights: so large that a reply overflows", Run::Generate, "not finite", huge).code(5),
        Case::new("weights: angles that overflow", Run::Score, "frequencies finite", angle),
    ]
}
