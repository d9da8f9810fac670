//! What a loss is computed from: what both models say at each token, before or after their heads.

use tch::{Kind, Tensor};

use super::draws::{self, Draws};
use super::term::Term;
use crate::error::{Error, Result};

/// The output layer of a model: `logits = cap tanh((hidden W^T + bias) / cap)`.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// W, `[vocabulary or more, d]`.
    pub weight_vd: &'a Tensor,
    /// The bias, where it has one.
    pub bias_v: Option<&'a Tensor>,
    /// The cap, where logits are capped softly.
    pub softcap: Option<f64>,
}

/// What a model says at each token, before or after its head.
#[derive(Debug, Clone, Copy)]
pub enum Side<'a> {
    /// Its last hidden states, and the head to put on them.
    Hidden {
        /// The states, `[n, d]`.
        hidden_nd: &'a Tensor,
        /// The head.
        head: Head<'a>,
    },
    /// Its logits, `[n, vocabulary or more]`.
    Logits(&'a Tensor),
    /// Tokens that were drawn from it: a teacher's side alone.
    Draws(Draws<'a>),
}

impl Side<'_> {
    pub(crate) fn tensor(&self) -> &Tensor {
        match self {
            Side::Hidden { hidden_nd, .. } => hidden_nd,
            Side::Logits(logits_nv) => logits_nv,
            Side::Draws(draws) => draws.ids_nk,
        }
    }

    fn width(&self) -> i64 {
        match self {
            Side::Hidden { head, .. } => head.weight_vd.size()[0],
            Side::Logits(logits_nv) => logits_nv.size()[1],
            Side::Draws(_) => i64::MAX,
        }
    }

    /// The float type it is computed in: float32, or float64 for float64.
    pub(crate) fn kind(&self) -> Kind {
        if self.tensor().kind() == Kind::Double { Kind::Double } else { Kind::Float }
    }
}

/// Ids that may not be said at some tokens: EOS until a reply is long enough. Both models' logits are
/// -inf there.
#[derive(Debug, Clone, Copy)]
pub struct Barred<'a> {
    /// The ids.
    pub ids: &'a [i64],
    /// Whether they are barred, for each token (bool).
    pub at_n: &'a Tensor,
}

impl Barred<'_> {
    /// Puts -inf where the ids may not be said, in logits of the tokens from `from` on.
    pub(crate) fn bar(&self, z_cv: &Tensor, from: i64) -> Result<()> {
        let at_c = self.at_n.f_narrow(0, from, z_cv.size()[0])?;
        for id in self.ids {
            let _barred = z_cv.f_select(1, *id)?.f_masked_fill_(&at_c, f64::NEG_INFINITY)?;
        }
        Ok(())
    }
}

/// All that a loss is computed from.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The student.
    pub student: Side<'a>,
    /// The teacher, where a term needs it.
    pub teacher: Option<Side<'a>>,
    /// The id that each token should be, or was.
    pub targets_n: &'a Tensor,
    /// The tokenizer's size. Both vocabularies are cut to it: rows behind it hold no token.
    pub vocabulary: i64,
    /// Ids barred at some tokens.
    pub barred: Option<Barred<'a>>,
    /// The teacher's logits are divided by it; the student's are not.
    pub teacher_temperature: f64,
}

/// Whether a side's logits may be -inf: given ones, those of a barred id, those of a bias of -inf.
pub(crate) fn may_bar(input: &Input, side: &Side) -> Result<bool> {
    Ok(match side {
        Side::Draws(_) => false,
        Side::Logits(_) => true,
        _ if input.barred.is_some() => true,
        Side::Hidden { head: Head { bias_v: Some(bias_v), .. }, .. } => {
            bias_v.f_isneginf()?.f_any()?.f_int64_value(&[])? != 0
        }
        Side::Hidden { .. } => false,
    })
}

/// That everything has the shape it should have.
pub(crate) fn checked(input: &Input, terms: &[Term]) -> Result<()> {
    let (count, v) = (input.targets_n.size().first().copied().unwrap_or(0), input.vocabulary);
    for (what, side) in [("student", Some(&input.student)), ("teacher", input.teacher.as_ref())] {
        let Some(side) = side else { continue };
        let size = side.tensor().size();
        if size.len() != 2 || size[0] != count {
            return Err(Error::handed(what, format!("[{count}, ..]"), format!("{size:?}")));
        }
        if side.width() < v || v < 1 {
            return Err(Error::handed(what, format!("a vocabulary of at least {v}"), side.width()));
        }
        if let Side::Hidden { hidden_nd, head } = side
            && hidden_nd.kind() != head.weight_vd.kind()
        {
            return Err(Error::handed(
                what,
                format!("{:?}", head.weight_vd.kind()),
                format!("{:?}", hidden_nd.kind()),
            ));
        }
    }
    if let Side::Draws(_) = input.student {
        return Err(Error::handed("student", "hidden states or logits", "drawn tokens"));
    }
    if let Some(Side::Draws(draws)) = &input.teacher {
        draws.checked(count)?;
        if input.teacher_temperature != 1.0 {
            return Err(Error::setting("temperature", "1 with drawn tokens", input.teacher_temperature));
        }
        if let Some(term) = terms.iter().find(|t| !draws::enough(&t.loss)) {
            return Err(Error::handed(term.name, "the whole teacher", "drawn tokens"));
        }
    }
    if input.teacher.is_none() && terms.iter().any(|t| t.loss.needs_teacher()) {
        return Err(Error::handed("a divergence", "a teacher", "none"));
    }
    if !(input.teacher_temperature > 0.0 && input.teacher_temperature.is_finite()) {
        return Err(Error::setting("temperature", "a number over 0", input.teacher_temperature));
    }
    Ok(())
}
