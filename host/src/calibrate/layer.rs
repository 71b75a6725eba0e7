//! One decoder layer: attention and feed-forward block, put together as the family does.
//!
//! There is one of it for all families; what differs is in [`Decoder`], and in which modules there are.

use std::collections::BTreeSet;

use qhost_compute::{Columns, Device, Norm, Rotation};
use qhost_plugin_api::documents::{InputGroup, LatentAttention, RoleKind};

use super::{
    Batch, Decoder, Error, Input, Interruption, Observer,
    decoder::{LayerShape, Order},
    routing::{Assignment, Router},
    weights::{Gain, Linear, Modules},
};

/// Cosines and sines on a device.
pub struct Tables<D: Device> {
    pub(super) cosines: D::Buffer,
    pub(super) sines: D::Buffer,
}

/// A layer that is about to run over a batch.
pub(super) struct Run<'a, 't, D: Device> {
    pub(super) device: &'a D,
    pub(super) decoder: &'a Decoder,
    pub(super) index: usize,
    pub(super) shape: &'a LayerShape,
    pub(super) modules: &'a Modules<'t, D>,
    /// The tables of this layer, and for every row of the batch its row there.
    pub(super) rotation: Option<(&'a Tables<D>, &'a [u32])>,
    pub(super) batch: &'a Batch,
    /// Experts that are shown all tokens, if that is what the layer is run for.
    pub(super) forced: Option<&'a BTreeSet<u32>>,
    pub(super) observer: &'a mut dyn Observer<D>,
}

/// Queries, keys and values.
type Heads<D> = (<D as Device>::Buffer, <D as Device>::Buffer, <D as Device>::Buffer);

type Outcome<D> = Result<<D as Device>::Buffer, Interruption>;

impl<'t, D: Device> Run<'_, 't, D> {
    /// Runs the layer: the stream before it becomes the stream after it.
    pub(super) fn forward(&mut self, mut stream: D::Buffer) -> Outcome<D> {
        let scale = self.decoder.residual_scale;
        match self.decoder.order {
            Order::SideBySide => {
                let input = self.normed(&RoleKind::AttentionNorm, &stream)?;
                let attention = self.attention(input.as_ref().unwrap_or(&stream))?;
                // Without a norm of its own the block reads what attention read.
                let own = self.normed(&RoleKind::FfnNorm, &stream)?.or(input);
                let ffn = self.feed_forward(own.as_ref().unwrap_or(&stream))?;
                self.device.add(&mut stream, scale, &attention)?;
                self.device.add(&mut stream, scale, &ffn)?;
            }
            Order::InTurn => {
                let input = self.normed(&RoleKind::AttentionNorm, &stream)?;
                let attention = self.attention(input.as_ref().unwrap_or(&stream))?;
                let attention = self.normed(&RoleKind::AttentionPostNorm, &attention)?.unwrap_or(attention);
                self.device.add(&mut stream, scale, &attention)?;
                let input = self.normed(&RoleKind::FfnNorm, &stream)?;
                let ffn = self.feed_forward(input.as_ref().unwrap_or(&stream))?;
                let ffn = self.normed(&RoleKind::FfnPostNorm, &ffn)?.unwrap_or(ffn);
                self.device.add(&mut stream, scale, &ffn)?;
            }
            Order::NormAfter => {
                let attention = self.attention(&stream)?;
                self.device.add(&mut stream, scale, &attention)?;
                stream = self.normed(&RoleKind::AttentionNorm, &stream)?.unwrap_or(stream);
                let ffn = self.feed_forward(&stream)?;
                self.device.add(&mut stream, scale, &ffn)?;
                stream = self.normed(&RoleKind::FfnNorm, &stream)?.unwrap_or(stream);
            }
        }
        Ok(stream)
    }

    fn attention(&mut self, x: &D::Buffer) -> Outcome<D> {
        self.look(InputGroup::AttentionIn, None, x, None)?;
        let (q, k, v) = match self.decoder.latent.clone() {
            Some(latent) => self.latent(x, &latent)?,
            None => self.heads(x)?,
        };
        let sinks = self.modules.vector_of(&RoleKind::AttentionSinks);
        let sinks = sinks.map(|sinks| self.device.upload(sinks)).transpose()?;
        let shape = &self.shape.attention;
        let attended = self.device.attention(&q, &k, &v, &self.batch.lengths, shape, sinks.as_ref())?;
        self.look(InputGroup::AttentionOut, None, &attended, None)?;
        self.linear(&RoleKind::AttentionOutput, &attended)
    }

    /// Queries, keys and values of plain attention, rotated.
    fn heads(&self, x: &D::Buffer) -> Result<Heads<D>, Interruption> {
        let attention = &self.shape.attention;
        let (q, k, v) = if self.modules.linear_of(&RoleKind::AttentionQkv, None).is_some() {
            let all = self.linear(&RoleKind::AttentionQkv, x)?;
            let (heads, kv_heads, head) = (attention.heads, attention.kv_heads, attention.key);
            let width = (heads + 2 * kv_heads) * head;
            let part = |index: usize, first: usize, count: usize| {
                let columns = if self.decoder.fused_by_head {
                    Columns { first: index * head, take: head, stride: 3 * head, count: heads }
                } else {
                    Columns::range(first * head, count * head)
                };
                self.device.columns(&all, width, columns)
            };
            (part(0, 0, heads)?, part(1, heads, kv_heads)?, part(2, heads + kv_heads, kv_heads)?)
        } else {
            let (q, k) = (self.linear(&RoleKind::AttentionQ, x)?, self.linear(&RoleKind::AttentionK, x)?);
            (q, k, self.linear(&RoleKind::AttentionV, x)?)
        };
        let mut q = self.normed(&RoleKind::AttentionQNorm, &q)?.unwrap_or(q);
        let mut k = self.normed(&RoleKind::AttentionKNorm, &k)?.unwrap_or(k);
        let (first, dimensions) = self.decoder.rotated;
        for x in [&mut q, &mut k] {
            self.rotate(x, attention.key, first, dimensions)?;
        }
        Ok((q, k, v))
    }

    /// Queries, keys and values of latent attention (DeepSeek-V2, section 2.1), as if there were no latents.
    fn latent(&mut self, x: &D::Buffer, latent: &LatentAttention) -> Result<Heads<D>, Interruption> {
        let size = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
        let (rank, unrotated, rotated) = (size(latent.kv_rank), size(latent.unrotated), size(latent.rotated));
        let (heads, key, value) = (self.shape.attention.heads, unrotated + rotated, size(latent.value));
        let mut q = if self.modules.linear_of(&RoleKind::AttentionQA, None).is_some() {
            let narrow = self.linear(&RoleKind::AttentionQA, x)?;
            let narrow = self.normed(&RoleKind::AttentionQANorm, &narrow)?.unwrap_or(narrow);
            self.look(InputGroup::AttentionQB, None, &narrow, None)?;
            self.linear(&RoleKind::AttentionQB, &narrow)?
        } else {
            self.linear(&RoleKind::AttentionQ, x)?
        };
        self.rotate(&mut q, key, unrotated, rotated)?;
        let both = self.linear(&RoleKind::AttentionKvA, x)?;
        let narrow = self.device.columns(&both, rank + rotated, Columns::range(0, rank))?;
        let mut shared = self.device.columns(&both, rank + rotated, Columns::range(rank, rotated))?;
        self.rotate(&mut shared, rotated, 0, rotated)?;
        let narrow = self.normed(&RoleKind::AttentionKvANorm, &narrow)?.unwrap_or(narrow);
        self.look(InputGroup::AttentionKvB, None, &narrow, None)?;
        let wide = self.linear(&RoleKind::AttentionKvB, &narrow)?;
        let of_heads = |first, take, stride| Columns { first, take, stride, count: heads };
        let width = heads * (unrotated + value);
        let plain = self.device.columns(&wide, width, of_heads(0, unrotated, unrotated + value))?;
        let v = self.device.columns(&wide, width, of_heads(unrotated, value, unrotated + value))?;
        // Every head has the same rotated part.
        let repeated = self.device.columns(&shared, rotated, of_heads(0, rotated, 0))?;
        let mut k = self.device.zeros(self.batch.tokens() * heads * key)?;
        self.device.place(&mut k, heads * key, of_heads(0, unrotated, key), &plain)?;
        self.device.place(&mut k, heads * key, of_heads(unrotated, rotated, key), &repeated)?;
        Ok((q, k, v))
    }

    fn rotate(&self, x: &mut D::Buffer, head: usize, first: usize, dimensions: usize) -> Result<(), Interruption> {
        let Some((tables, rows)) = self.rotation else { return Ok(()) };
        let rotation = Rotation {
            head,
            first,
            dimensions,
            interleaved: self.decoder.neighbours,
            cosines: &tables.cosines,
            sines: &tables.sines,
        };
        Ok(self.device.rotate(x, rows, &rotation)?)
    }

    fn feed_forward(&mut self, x: &D::Buffer) -> Outcome<D> {
        self.look(InputGroup::FfnIn, None, x, None)?;
        match self.modules.linear_of(&RoleKind::Router, None) {
            Some(router) => self.mixture(x, router),
            None => self.dense(x),
        }
    }

    fn dense(&mut self, x: &D::Buffer) -> Outcome<D> {
        let hidden = self.activated([&RoleKind::FfnGateUp, &RoleKind::FfnGate, &RoleKind::FfnUp], None, x)?;
        self.look(InputGroup::FfnMid, None, &hidden, None)?;
        self.linear(&RoleKind::FfnDown, &hidden)
    }

    /// Gate and up projections and what is between them and the down projection.
    fn activated(&self, kinds: [&RoleKind; 3], expert: Option<u32>, x: &D::Buffer) -> Outcome<D> {
        let [fused, gate, up] = kinds;
        let activation = self.decoder.activation;
        if let Some(fused) = self.modules.linear_of(fused, expert) {
            let width = fused.outputs;
            let both = self.through(fused, x)?;
            let halves = if self.decoder.gate_and_up_in_turn && expert.is_some() {
                [0, 1].map(|first| Columns { first, take: 1, stride: 2, count: width / 2 })
            } else {
                [0, width / 2].map(|first| Columns::range(first, width / 2))
            };
            let mut gate = self.device.columns(&both, width, halves[0])?;
            let up = self.device.columns(&both, width, halves[1])?;
            self.device.activate(&mut gate, Some(&up), activation)?;
            return Ok(gate);
        }
        let up = self.through(self.module(up, expert)?, x)?;
        let Some(gate) = self.modules.linear_of(gate, expert) else {
            let mut up = up;
            self.device.activate(&mut up, None, activation)?;
            return Ok(up);
        };
        let mut gate = self.through(gate, x)?;
        self.device.activate(&mut gate, Some(&up), activation)?;
        Ok(gate)
    }

    fn mixture(&mut self, x: &D::Buffer, router: &Linear<'_, D>) -> Outcome<D> {
        let Some(experts) = &self.decoder.experts else {
            return Err(self.missing("a count of experts").into());
        };
        if let Some(forced) = self.forced {
            for &expert in forced {
                self.look(InputGroup::FfnIn, Some(expert), x, None)?;
                let hidden = self.activated(self.kinds(expert).0, Some(expert), x)?;
                self.look(InputGroup::FfnMid, Some(expert), &hidden, None)?;
            }
            return Err(Interruption::Enough);
        }
        let tokens = self.batch.tokens();
        let mut logits = vec![0.0; tokens * router.outputs];
        self.device.download(&self.through(router, x)?, &mut logits)?;
        let routing = Router {
            experts,
            groups: self.decoder.groups,
            normalized: self.decoder.normalized,
            correction: self.modules.vector_of(&RoleKind::RouterCorrection),
        };
        let assignments = routing.assign(&logits);
        let width = self.decoder.width;
        let mut sum = self.device.zeros(tokens * width)?;
        for (expert, Assignment { rows, weights }) in (0..).zip(&assignments) {
            if rows.is_empty() {
                continue;
            }
            let (kinds, down) = self.kinds(expert);
            let expert = Some(expert);
            let input = self.device.gather(x, width, rows)?;
            self.look(InputGroup::FfnIn, expert, &input, Some(rows))?;
            let hidden = self.activated(kinds, expert, &input)?;
            self.look(InputGroup::FfnMid, expert, &hidden, Some(rows))?;
            let answer = self.through(self.module(down, expert)?, &hidden)?;
            self.device.scatter_add(&mut sum, width, rows, weights, &answer)?;
        }
        if self.modules.linear_of(&RoleKind::SharedDown, None).is_some() {
            let kinds = [&RoleKind::FfnGateUp, &RoleKind::SharedGate, &RoleKind::SharedUp];
            let hidden = self.activated(kinds, None, x)?;
            self.look(InputGroup::SharedMid, None, &hidden, None)?;
            let answer = self.linear(&RoleKind::SharedDown, &hidden)?;
            match self.modules.linear_of(&RoleKind::SharedRouter, None) {
                None => self.device.add(&mut sum, 1.0, &answer)?,
                Some(router) => {
                    let mut logits = vec![0.0; tokens];
                    self.device.download(&self.through(router, x)?, &mut logits)?;
                    let weights: Vec<f32> = logits.into_iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect();
                    let rows: Vec<u32> = (0..).take(tokens).collect();
                    self.device.scatter_add(&mut sum, width, &rows, &weights, &answer)?;
                }
            }
        }
        Ok(sum)
    }

    /// The kinds of an expert's linears: fused, gate, up, and down.
    fn kinds(&self, expert: u32) -> ([&'static RoleKind; 3], &'static RoleKind) {
        if self.modules.linear_of(&RoleKind::ExpertsDown, Some(expert)).is_some() {
            ([&RoleKind::ExpertsGateUp, &RoleKind::FfnGate, &RoleKind::FfnUp], &RoleKind::ExpertsDown)
        } else {
            ([&RoleKind::FfnGateUp, &RoleKind::FfnGate, &RoleKind::FfnUp], &RoleKind::FfnDown)
        }
    }

    fn look(
        &mut self,
        group: InputGroup,
        expert: Option<u32>,
        numbers: &D::Buffer,
        rows: Option<&[u32]>,
    ) -> Result<(), Interruption> {
        let count = rows.map_or_else(|| self.batch.tokens(), <[u32]>::len);
        let width = self.device.length(numbers) / count.max(1);
        let input = Input { group, expert, numbers, width, rows, batch: self.batch };
        self.observer.look(self.device, &input)
    }

    fn normed(&self, kind: &RoleKind, x: &D::Buffer) -> Result<Option<D::Buffer>, Interruption> {
        let Some(gain) = self.modules.norm_of(kind) else { return Ok(None) };
        Ok(Some(normed(self.device, self.decoder, kind, gain, x)?))
    }

    fn linear(&self, kind: &RoleKind, x: &D::Buffer) -> Outcome<D> {
        self.through(self.module(kind, None)?, x)
    }

    fn module(&self, kind: &RoleKind, expert: Option<u32>) -> Result<&Linear<'t, D>, Error> {
        self.modules.linear_of(kind, expert).ok_or_else(|| match expert {
            Some(expert) => self.missing(&format!("{} of expert {expert}", kind.name())),
            None => self.missing(kind.name()),
        })
    }

    fn missing(&self, what: &str) -> Error {
        Error::MissingModule { layer: self.index.to_string(), role: what.to_owned() }
    }

    fn through(&self, linear: &Linear<'_, D>, x: &D::Buffer) -> Outcome<D> {
        let rows = self.device.length(x) / linear.inputs.max(1);
        Ok(self.device.linear(x, rows, &linear.matrix, linear.bias.as_ref())?)
    }
}

/// Applies a norm of the model.
pub(super) fn normed<D: Device>(
    device: &D,
    decoder: &Decoder,
    kind: &RoleKind,
    gain: &Gain<D>,
    x: &D::Buffer,
) -> Result<D::Buffer, Error> {
    let shape = &decoder.norm;
    let of_latents = matches!(kind, RoleKind::AttentionQANorm | RoleKind::AttentionKvANorm);
    let norm = Norm {
        kind: shape.kind,
        width: gain.width,
        epsilon: if of_latents { shape.latent_epsilon } else { shape.epsilon },
        gain: Some(&gain.gain),
        plus_one: shape.plus_one,
        bias: gain.bias.as_ref(),
    };
    Ok(device.norm(x, &norm)?)
}
