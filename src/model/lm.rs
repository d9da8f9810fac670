//! A whole causal language model: tokens -> hidden states -> logits, with and without a cache.

use std::path::Path;
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use super::cache::{Cache, Next};
use super::config::Shape;
use super::layers::Head;
use super::lend::Lender;
use super::sight::{Padding, Sight};
use super::{Block, Design, Parts, read_design, too_long};
use crate::error::{Error, Result};
use crate::native::{self, small};
use crate::weights::{Params, Residence, WeightFiles};

/// How a model is loaded.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// The float type it computes in.
    pub kind: Kind,
    /// Where.
    pub device: Device,
    /// To be read, or to be trained.
    pub residence: Residence,
    /// Whether every weight is looked at for numbers that are not finite.
    pub check_finite: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions {
            kind: Kind::Float,
            device: Device::Cpu,
            residence: Residence::Mapped,
            check_finite: true,
        }
    }
}

/// What is done at a block: see [`CausalLm::hidden_with`].
pub type Visit<'v> = dyn FnMut(usize, &Tensor, &dyn Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> + 'v;

/// A causal language model.
#[derive(Debug)]
pub struct CausalLm {
    design: Box<dyn Design>,
    params: Params,
    parts: Parts,
    recompute: bool,
    lender: Option<Rc<dyn Lender>>,
    kind: Kind,
    device: Device,
}

impl CausalLm {
    /// Loads a model folder: config.json and safetensors, everything checked before it is used.
    pub fn load(folder: &Path, options: LoadOptions) -> Result<Self> {
        Self::load_with(folder, options, |_, _| Ok(()))
    }

    /// The same, with something done to its tensors before the model is made of them.
    pub fn load_with(
        folder: &Path,
        options: LoadOptions,
        prepare: impl FnOnce(&dyn Design, &mut Params) -> Result<()>,
    ) -> Result<Self> {
        Self::load_some(folder, options, &|_| true, prepare)
    }

    /// The same where not all tensors are wanted: the others have shapes alone, and `prepare` puts something in their
    /// place.
    pub fn load_some(
        folder: &Path,
        options: LoadOptions,
        wanted: &dyn Fn(&str) -> bool,
        prepare: impl FnOnce(&dyn Design, &mut Params) -> Result<()>,
    ) -> Result<Self> {
        let design = read_design(folder)?;
        let files = WeightFiles::open(folder)?;
        let plan = files.plan(&design.naming(), design.specs(), design.shape().tied)?;
        if options.check_finite {
            plan.check_finite()?;
        }
        let LoadOptions { kind, device, residence, .. } = options;
        let mut params = Params::from_plan_of(&plan, kind, device, residence, wanted)?;
        prepare(design.as_ref(), &mut params)?;
        Self::new(design, params, options.kind, options.device)
    }

    /// A model of random weights, to be trained from nothing.
    pub fn random(design: Box<dyn Design>, seed: u64, kind: Kind, device: Device) -> Result<Self> {
        let tensors = Params::random(&design.specs(), seed)?;
        let moved: Result<Vec<_>> =
            tensors.into_iter().map(|(n, t)| Ok((n, t.f_to_device(device)?))).collect();
        let params = Params::trained(moved?, kind)?;
        Self::new(design, params, kind, device)
    }

    /// A model over these tensors.
    pub fn new(design: Box<dyn Design>, params: Params, kind: Kind, device: Device) -> Result<Self> {
        let parts = design.build(&params)?;
        Ok(CausalLm { design, params, parts, recompute: false, lender: None, kind, device })
    }

    /// Forgets the inside of each block after the forward pass and computes it again in the backward
    /// pass: memory for one block instead of all, at the price of one more forward pass.
    pub fn set_recompute(&mut self, on: bool) {
        self.recompute = on;
    }

    /// Has the weights of its blocks brought before each is used.
    pub fn set_lender(&mut self, lender: Rc<dyn Lender>) {
        self.lender = Some(lender);
    }

    /// Whether the weights of its blocks are brought before each is used.
    pub fn is_lent(&self) -> bool {
        self.lender.is_some()
    }

    /// What is done before a pass through all blocks, and before each of them.
    fn bring(&self, block: Option<usize>) -> Result<()> {
        match (&self.lender, block) {
            (None, _) => Ok(()),
            (Some(lender), None) => lender.begin(),
            (Some(lender), Some(block)) => lender.lend(block),
        }
    }

    /// Its sizes.
    pub fn shape(&self) -> &Shape {
        self.design.shape()
    }

    /// Its design, as config.json has it.
    pub fn design(&self) -> &dyn Design {
        self.design.as_ref()
    }

    /// Its tensors.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The same, to give back what is not needed.
    pub fn params_mut(&mut self) -> &mut Params {
        &mut self.params
    }

    /// Its head.
    pub fn head(&self) -> &Head {
        &self.parts.head
    }

    /// The head, as policies take it.
    pub fn scoring_head(&self) -> retort_policies::objective::input::Head<'_> {
        let Head { weight_vd, bias_v } = self.head();
        retort_policies::objective::input::Head { weight_vd, bias_v: bias_v.as_ref(), softcap: None }
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The float type it computes in.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How many of a tokenizer's ids both this model and its teacher can say: their outputs behind them are
    /// padding, which two models of one family may have in different sizes. Where one of them can say
    /// more of the ids than the other, they are no pair.
    pub fn shared_vocabulary(&self, teacher: &CausalLm, tokenizer: usize) -> Result<usize> {
        let (own, teachers) = (self.shape().vocabulary as usize, teacher.shape().vocabulary as usize);
        let vocabulary = tokenizer.min(own.max(teachers));
        if vocabulary > own || vocabulary > teachers {
            return Err(Error::data("teacher and student do not have the same vocabulary")
                .expected(format!("{vocabulary} tokens in both"))
                .found(format!("{own} in the student, {teachers} in the teacher")));
        }
        Ok(vocabulary)
    }

    /// The state that the head sees, for every position of a batch: [b, t, channels]. What stands at
    /// padding positions means nothing.
    pub fn hidden(&self, ids_bt: &Tensor, padding: &Padding) -> Result<Tensor> {
        let (_, tokens) = ids_bt.size2()?;
        self.check_length(tokens)?;
        let sight = Sight::new(self.shape(), tokens, padding, self.kind, self.device)?;
        let mut x = self.parts.embedding.forward(ids_bt, &sight)?;
        self.bring(None)?;
        for (n, block) in self.parts.blocks.iter().enumerate() {
            self.bring(Some(n))?;
            x = if self.recompute {
                recomputed(block.as_ref(), &x, &sight)?
            } else {
                block.forward(&x, &sight, None)?
            };
        }
        self.parts.finish.forward(x)
    }

    /// The same with a float32 factor on each channel of the state between blocks, and with the blocks in the hands of
    /// `visit`: it is given each one's number, the state before it, and what computes the state behind it.
    pub fn hidden_with(
        &self,
        ids_bt: &Tensor,
        mask_d: Option<&Tensor>,
        visit: &mut Visit<'_>,
    ) -> Result<Tensor> {
        let (_, tokens) = ids_bt.size2()?;
        self.check_length(tokens)?;
        let sight =
            Sight::new(self.shape(), tokens, &Padding::Right, self.kind, self.device)?.with_mask(mask_d);
        let mut x = sight.begin(self.parts.embedding.forward(ids_bt, &sight)?)?;
        for (layer, block) in self.parts.blocks.iter().enumerate() {
            x = visit(layer, &x, &|x| block.forward(x, &sight, None))?;
        }
        self.parts.finish.forward(x)
    }

    /// Logits over the whole output, in the model's float type.
    pub fn logits(&self, hidden_btd: &Tensor) -> Result<Tensor> {
        self.parts.head.logits(hidden_btd)
    }

    /// The same for the few rows of a decoding step, in float32 where it costs nothing. Gradients must be
    /// off.
    pub fn next_logits(&self, hidden_bd: &Tensor) -> Result<Tensor> {
        self.parts.head.next_logits(hidden_bd)
    }

    /// An empty cache with room for `rows` sequences of up to `room` tokens each.
    pub fn cache(&self, rows: usize, room: usize) -> Result<Cache> {
        self.check_length(room as i64)?;
        Cache::new(self.shape(), rows, room, self.kind, self.device)
    }

    /// Takes whole prompts (padding behind) into these rows of the cache. Nothing is answered: feed the
    /// last token of a prompt to [`CausalLm::advance`] to know what comes next. Gradients must be off.
    pub fn prefill(&self, ids_bt: &Tensor, rows: &[usize], cache: &mut Cache) -> Result<()> {
        let sight = cache.prompts(rows, ids_bt.size2()?.1)?;
        self.blocks(ids_bt, &sight, cache).map(|_| ())
    }

    /// Takes tokens behind what the cache holds, at the places that `next` says, and answers the states
    /// that the head sees for them: [b, t, channels]. What stands at padding means nothing. Gradients
    /// must be off.
    pub fn advance(&self, ids_bt: &Tensor, next: &Next, cache: &mut Cache) -> Result<Tensor> {
        let _few = small::allow();
        let sight = cache.sight(next)?;
        self.parts.finish.forward(self.blocks(ids_bt, &sight, cache)?)
    }

    /// Through the embedding and all blocks, keeping keys and values.
    fn blocks(&self, ids_bt: &Tensor, sight: &Sight, cache: &mut Cache) -> Result<Tensor> {
        let mut x = self.parts.embedding.forward(ids_bt, sight)?;
        self.bring(None)?;
        for (n, (block, layer)) in self.parts.blocks.iter().zip(&mut cache.layers).enumerate() {
            self.bring(Some(n))?;
            x = block.forward(&x, sight, Some(layer))?;
        }
        Ok(x)
    }

    fn check_length(&self, tokens: i64) -> Result<()> {
        if tokens == 0 {
            return Err(Error::bug("a forward pass of no tokens"));
        }
        if tokens > self.shape().context { Err(too_long(tokens, self.shape().context)) } else { Ok(()) }
    }
}

fn recomputed(block: &dyn Block, x: &Tensor, sight: &Sight) -> Result<Tensor> {
    let (block, sight) = (block.share(), sight.share());
    native::recompute(x, move |x| block.forward(x, &sight, None))
}
