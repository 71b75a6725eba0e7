//! One decoder layer: attention and feed-forward block, put together as the family does.
//!
//! There is one of it for all families; what differs is in [`Decoder`], and in which modules there are.

use std::collections::BTreeSet;

use qhost_compute::{Columns, Device, Norm, Rotation};
use qhost_plugin_api::documents::{InputGroup, LatentAttention, RoleKind};

use super::{
    Batch, Decoder, Error, Input, Interruption, Observer, Point,
    decoder::LayerShape,
    kept::Pieces,
    routing::{Assignment, Router},
    weights::{Gain, Linear, Modules},
};
use crate::model::Order;

/// Cosines and sines on a device.
pub struct Tables<D: Device> {
    pub(super) cosines: D::Buffer,
    pub(super) sines: D::Buffer,
}

/// A layer, or a stretch of it, that is about to run over a batch.
pub(super) struct Run<'a, 't, D: Device> {
    pub(super) device: &'a D,
    pub(super) decoder: &'a Decoder,
    pub(super) index: usize,
    pub(super) shape: &'a LayerShape,
    pub(super) modules: &'a Modules<'t, D>,
    /// The tables of this layer, and for every row of the batch its row there.
    pub(super) rotation: Option<(&'a Tables<D>, &'a [u32])>,
    pub(super) batch: &'a Batch,
    /// The stream before the layer.
    pub(super) before: &'a [f32],
    /// What is run of the layer, what that goes on from, and what it leaves.
    pub(super) pieces: Pieces<'a>,
    /// Experts that are shown all tokens, if that is what the layer is run for.
    pub(super) forced: Option<&'a BTreeSet<u32>>,
    pub(super) observer: &'a mut dyn Observer<D>,
}

/// Queries, keys and values.
type Heads<D> = (<D as Device>::Buffer, <D as Device>::Buffer, <D as Device>::Buffer);

type Outcome<D> = Result<<D as Device>::Buffer, Interruption>;

impl<'t, D: Device> Run<'_, 't, D> {
    /// Runs the layer, or the stretch of it that is wanted: the stream before it becomes the stream after it.
    pub(super) fn forward(&mut self) -> Outcome<D> {
        let (device, scale) = (self.device, self.decoder.residual_scale);
        let (mut stream, input) = self.until_feed_forward()?;
        let ffn = self.feed_forward(input.as_ref().unwrap_or(&stream), &stream)?;
        let ffn = match self.decoder.order {
            Order::InTurn => self.normed(&RoleKind::FfnPostNorm, &ffn)?.unwrap_or(ffn),
            Order::SideBySide | Order::NormAfter => ffn,
        };
        device.add(&mut stream, scale, &ffn)?;
        if self.decoder.order == Order::NormAfter {
            stream = self.normed(&RoleKind::FfnNorm, &stream)?.unwrap_or(stream);
        }
        Ok(stream)
    }

    /// The stream with what attention adds, and what the feed-forward block reads, if that is not the stream.
    fn until_feed_forward(&mut self) -> Result<(D::Buffer, Option<D::Buffer>), Interruption> {
        let order = self.decoder.order;
        let stream = if self.pieces.stretch.from >= Point::FfnIn {
            self.device.upload(&self.pieces.whole(Point::FfnIn)?)?
        } else {
            let mut stream = self.device.upload(self.before)?;
            let attention = self.attention(&stream)?;
            let attention = match order {
                Order::InTurn => self.normed(&RoleKind::AttentionPostNorm, &attention)?.unwrap_or(attention),
                Order::SideBySide | Order::NormAfter => attention,
            };
            self.device.add(&mut stream, self.decoder.residual_scale, &attention)?;
            if order == Order::NormAfter {
                stream = self.normed(&RoleKind::AttentionNorm, &stream)?.unwrap_or(stream);
            }
            self.keep(Point::FfnIn, &[&stream])?;
            stream
        };
        let input = match order {
            Order::InTurn => self.normed(&RoleKind::FfnNorm, &stream)?,
            Order::NormAfter => None,
            Order::SideBySide => {
                let before = self.device.upload(self.before)?;
                let own = self.normed(&RoleKind::FfnNorm, &before)?;
                // Without a norm of its own the block reads what attention read.
                let own = if own.is_some() { own } else { self.normed(&RoleKind::AttentionNorm, &before)? };
                Some(own.unwrap_or(before))
            }
        };
        Ok((stream, input))
    }

    fn attention(&mut self, stream: &D::Buffer) -> Outcome<D> {
        let attended = if self.pieces.stretch.from == Point::AttentionOut {
            self.device.upload(&self.pieces.whole(Point::AttentionOut)?)?
        } else {
            let (q, k, v) = self.queries_keys_values(stream)?;
            let sinks = self.modules.vector_of(&RoleKind::AttentionSinks);
            let sinks = sinks.map(|sinks| self.device.upload(sinks)).transpose()?;
            let shape = &self.shape.attention;
            let attended = self.device.attention(&q, &k, &v, &self.batch.lengths, shape, sinks.as_ref())?;
            self.keep(Point::AttentionOut, &[&attended])?;
            attended
        };
        self.look_before_adding(InputGroup::AttentionOut, &attended, (stream, &RoleKind::AttentionPostNorm))?;
        self.stop_at(Point::AttentionOut)?;
        self.linear(&RoleKind::AttentionOutput, &attended)
    }

    fn queries_keys_values(&mut self, stream: &D::Buffer) -> Result<Heads<D>, Interruption> {
        let latent = self.decoder.latent.clone();
        let narrow = if let (Some(latent), Point::Latents) = (&latent, self.pieces.stretch.from) {
            self.kept_latents(latent)?
        } else {
            let input = match self.decoder.order {
                Order::InTurn | Order::SideBySide => self.normed(&RoleKind::AttentionNorm, stream)?,
                Order::NormAfter => None,
            };
            let x = input.as_ref().unwrap_or(stream);
            self.look(InputGroup::AttentionIn, None, x, None)?;
            self.stop_at(Point::Start)?;
            let Some(latent) = &latent else { return self.heads(x) };
            self.latents(x, latent)?
        };
        match &latent {
            Some(latent) => self.widened(narrow, latent),
            None => Err(self.missing("latent attention").into()),
        }
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

    /// Latent queries, keys and values (DeepSeek-V2, section 2.1): queries, narrow after their norm or as they are,
    /// the part of the keys that all heads share, and what is narrow of keys and values.
    fn latents(&mut self, x: &D::Buffer, latent: &LatentAttention) -> Result<Heads<D>, Interruption> {
        let (rank, rotated) = (size(latent.kv_rank), size(latent.rotated));
        let q = if self.modules.has(&RoleKind::AttentionQA) {
            let narrow = self.linear(&RoleKind::AttentionQA, x)?;
            self.normed(&RoleKind::AttentionQANorm, &narrow)?.unwrap_or(narrow)
        } else {
            self.linear(&RoleKind::AttentionQ, x)?
        };
        let both = self.linear(&RoleKind::AttentionKvA, x)?;
        let narrow = self.device.columns(&both, rank + rotated, Columns::range(0, rank))?;
        let shared = self.device.columns(&both, rank + rotated, Columns::range(rank, rotated))?;
        let narrow = self.normed(&RoleKind::AttentionKvANorm, &narrow)?.unwrap_or(narrow);
        self.keep(Point::Latents, &[&shared, &narrow, &q])?;
        Ok((q, shared, narrow))
    }

    /// Those that are kept.
    fn kept_latents(&mut self, latent: &LatentAttention) -> Result<Heads<D>, Interruption> {
        let tokens = self.batch.tokens();
        let (shared, narrow) = (tokens * size(latent.rotated), tokens * size(latent.kv_rank));
        let all = self.pieces.whole(Point::Latents)?;
        let cut =
            all.split_at_checked(shared).and_then(|(shared, rest)| Some((shared, rest.split_at_checked(narrow)?)));
        let (shared, (narrow, q)) = cut.ok_or_else(|| self.missing("kept latents"))?;
        let device = self.device;
        Ok((device.upload(q)?, device.upload(shared)?, device.upload(narrow)?))
    }

    /// Queries, keys and values, as if there were no latents.
    fn widened(&mut self, latents: Heads<D>, latent: &LatentAttention) -> Result<Heads<D>, Interruption> {
        let (q, mut shared, narrow) = latents;
        let (unrotated, rotated) = (size(latent.unrotated), size(latent.rotated));
        let (heads, key, value) = (self.shape.attention.heads, unrotated + rotated, size(latent.value));
        let has_narrow_queries = self.modules.has(&RoleKind::AttentionQA);
        if has_narrow_queries {
            self.look(InputGroup::AttentionQB, None, &q, None)?;
        }
        self.look(InputGroup::AttentionKvB, None, &narrow, None)?;
        self.stop_at(Point::Latents)?;
        let mut q = if has_narrow_queries { self.linear(&RoleKind::AttentionQB, &q)? } else { q };
        self.rotate(&mut q, key, unrotated, rotated)?;
        self.rotate(&mut shared, rotated, 0, rotated)?;
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

    fn feed_forward(&mut self, x: &D::Buffer, stream: &D::Buffer) -> Outcome<D> {
        self.look(InputGroup::FfnIn, None, x, None)?;
        match self.modules.linear_of(&RoleKind::Router, None) {
            Some(router) => self.mixture(x, stream, router),
            None => self.dense(x, stream),
        }
    }

    fn dense(&mut self, x: &D::Buffer, stream: &D::Buffer) -> Outcome<D> {
        self.stop_at(Point::FfnIn)?;
        let kinds = [&RoleKind::FfnGateUp, &RoleKind::FfnGate, &RoleKind::FfnUp];
        let hidden = self.between(kinds, (&RoleKind::FfnDown, None), x, None)?;
        self.look_before_adding(InputGroup::FfnMid, &hidden, (stream, &RoleKind::FfnPostNorm))?;
        self.stop_at(Point::FfnMid)?;
        self.linear(&RoleKind::FfnDown, &hidden)
    }

    /// What a down projection reads: kept, or computed of `x`, of some of its rows if not of all.
    fn between(
        &mut self,
        kinds: [&RoleKind; 3],
        (down, expert): (&RoleKind, Option<u32>),
        x: &D::Buffer,
        rows: Option<&[u32]>,
    ) -> Outcome<D> {
        if self.pieces.stretch.from == Point::FfnMid {
            let count = rows.map_or_else(|| self.batch.tokens(), <[u32]>::len);
            let count = count * self.module(down, expert)?.inputs;
            return Ok(self.device.upload(&self.pieces.next(count)?)?);
        }
        let gathered = rows.map(|rows| self.device.gather(x, self.decoder.width, rows)).transpose()?;
        let x = gathered.as_ref().unwrap_or(x);
        if rows.is_some() {
            self.look(InputGroup::FfnIn, expert, x, rows)?;
        }
        let hidden = self.activated(kinds, expert, x)?;
        self.keep(Point::FfnMid, &[&hidden])?;
        Ok(hidden)
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

    fn mixture(&mut self, x: &D::Buffer, stream: &D::Buffer, router: &Linear<'_, D>) -> Outcome<D> {
        let Some(experts) = &self.decoder.experts else {
            return Err(self.missing("a count of experts").into());
        };
        if let Some(forced) = self.forced {
            for &expert in forced {
                self.look(InputGroup::FfnIn, Some(expert), x, None)?;
                if self.pieces.stretch.uses(Point::FfnIn) {
                    let hidden = self.activated(self.kinds().0, Some(expert), x)?;
                    self.look(InputGroup::FfnMid, Some(expert), &hidden, None)?;
                }
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
        let stretch = self.pieces.stretch;
        let mut sum = self.device.zeros(tokens * width)?;
        for (expert, Assignment { rows, weights }) in (0..).zip(&assignments) {
            if rows.is_empty() {
                continue;
            }
            let (kinds, down) = self.kinds();
            let expert = Some(expert);
            if stretch.ends_at(Point::FfnIn) {
                let input = self.device.gather(x, width, rows)?;
                self.look(InputGroup::FfnIn, expert, &input, Some(rows))?;
                continue;
            }
            let hidden = self.between(kinds, (down, expert), x, Some(rows))?;
            self.look(InputGroup::FfnMid, expert, &hidden, Some(rows))?;
            if !stretch.ends_at(Point::FfnMid) {
                let answer = self.through(self.module(down, expert)?, &hidden)?;
                self.device.scatter_add(&mut sum, width, rows, weights, &answer)?;
            }
        }
        self.stop_at(Point::FfnIn)?;
        if self.modules.has(&RoleKind::SharedDown) {
            let kinds = [&RoleKind::FfnGateUp, &RoleKind::SharedGate, &RoleKind::SharedUp];
            let hidden = self.between(kinds, (&RoleKind::SharedDown, None), x, None)?;
            if self.modules.has(&RoleKind::SharedRouter) {
                self.look(InputGroup::SharedMid, None, &hidden, None)?;
            } else {
                self.look_before_adding(InputGroup::SharedMid, &hidden, (stream, &RoleKind::FfnPostNorm))?;
            }
            self.stop_at(Point::FfnMid)?;
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
        self.stop_at(Point::FfnMid)?;
        Ok(sum)
    }

    /// The kinds of experts' linears: fused, gate, up, and down.
    fn kinds(&self) -> ([&'static RoleKind; 3], &'static RoleKind) {
        if self.modules.has(&RoleKind::ExpertsDown) {
            ([&RoleKind::ExpertsGateUp, &RoleKind::FfnGate, &RoleKind::FfnUp], &RoleKind::ExpertsDown)
        } else {
            ([&RoleKind::FfnGateUp, &RoleKind::FfnGate, &RoleKind::FfnUp], &RoleKind::FfnDown)
        }
    }

    /// Ends a stretch here, if it was to end here.
    fn stop_at(&self, point: Point) -> Result<(), Interruption> {
        if self.pieces.stretch.ends_at(point) { Err(Interruption::Enough) } else { Ok(()) }
    }

    /// Leaves numbers for a later stretch, one after the other.
    fn keep(&mut self, point: Point, numbers: &[&D::Buffer]) -> Result<(), Interruption> {
        if self.forced.is_some() || !self.pieces.keeps(point) {
            return Ok(());
        }
        for buffer in numbers {
            let room = self.pieces.leave(point, self.device.length(buffer));
            self.device.download(buffer, room)?;
        }
        Ok(())
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
        let input = Input { group, expert, numbers, width, rows, stream: None, batch: self.batch };
        self.observer.look(self.device, &input)
    }

    /// Looks at the input of a linear whose output is added to the stream, unless that is scaled or normed before.
    fn look_before_adding(
        &mut self,
        group: InputGroup,
        numbers: &D::Buffer,
        (stream, post_norm): (&D::Buffer, &RoleKind),
    ) -> Result<(), Interruption> {
        let normed = self.decoder.order == Order::InTurn && self.modules.has(post_norm);
        let as_it_is = !normed && (self.decoder.residual_scale - 1.0).abs() <= 0.0;
        let width = self.device.length(numbers) / self.batch.tokens().max(1);
        let stream = as_it_is.then_some(stream);
        let input = Input { group, expert: None, numbers, width, rows: None, stream, batch: self.batch };
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

/// Sizes of a decoder are those of tensors, which a machine can address.
fn size(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
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
