//! What a layer has computed before the points where it is looked at, so that it can be gone on from there.
//!
//! A unit that puts other weights in place of a group's goes through its layer point by point, and each stretch
//! begins where the last one ended: no product is computed twice. What is kept lies in memory or a file like the
//! hidden states; what cannot be kept is computed anew.

use std::{borrow::Cow, collections::BTreeMap, path::PathBuf, sync::Arc};

use qhost_plugin_api::documents::InputGroup;

use super::{Batch, Error, HiddenStates, hidden};
use crate::stream::{Grant, Ledger};

/// More than so many bytes go to a file even if there is memory: the system caches the file as it can, and writing and
/// reading it there takes a hundredth of what the products take that are saved.
const MOST_IN_MEMORY: u64 = 128 << 20;

/// A file is only made where so many times its bytes are free: others write there too.
const SPARE: u64 = 2;

/// Points in a layer where inputs are looked at, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// Its input.
    Start,
    /// Latent queries, keys and values.
    Latents,
    /// What the heads of attention give.
    AttentionOut,
    /// What the feed-forward block reads. Kept is the stream after attention.
    FfnIn,
    /// What the down projections read, of experts one after the other. It is of use only together with the stream.
    FfnMid,
    /// What no layer has.
    End,
}

impl Point {
    /// Where a group's input comes. Experts' come with those of the whole block, in turn.
    #[must_use]
    pub fn of(group: &InputGroup) -> Self {
        match group {
            InputGroup::AttentionIn => Self::Start,
            InputGroup::AttentionQB | InputGroup::AttentionKvB => Self::Latents,
            InputGroup::AttentionOut => Self::AttentionOut,
            InputGroup::FfnIn => Self::FfnIn,
            InputGroup::FfnMid | InputGroup::SharedMid => Self::FfnMid,
            _ => Self::End,
        }
    }
}

/// Part of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Where it begins; what is kept there is gone on with.
    pub from: Point,
    /// Where it ends, once that is looked at; none for the layer's end.
    pub until: Option<Point>,
}

impl Stretch {
    /// A layer as a whole.
    pub const WHOLE: Self = Self { from: Point::Start, until: None };

    /// Whether it ends at a point, or has no business beyond it.
    pub(super) fn ends_at(self, point: Point) -> bool {
        self.until.is_some_and(|until| until <= point)
    }

    /// Whether weights that read what is looked at in a point take part.
    pub(super) fn uses(self, point: Point) -> bool {
        self.from <= point && !self.ends_at(point)
    }

    /// Whether what is at a point is to be kept.
    fn keeps(self, point: Point) -> bool {
        let wanted = match self.until {
            Some(Point::FfnMid) => point >= Point::FfnIn,
            Some(until) => point == until,
            None => false,
        };
        wanted && point > self.from && point < Point::End
    }
}

/// What is kept of the layer at work.
#[derive(Debug)]
pub struct Kept {
    at: BTreeMap<Point, HiddenStates>,
    /// What a stretch under way has kept so far; of points that could not be kept, nothing.
    growing: BTreeMap<Point, Option<HiddenStates>>,
    /// Where there is room, if anything is to be kept at all.
    room: Option<Room>,
}

/// Where what is kept may lie.
#[derive(Debug)]
struct Room {
    ledger: Arc<Ledger>,
    /// Memory that is left to others.
    reserve: u64,
    folder: PathBuf,
}

impl Room {
    /// Room for numbers of so many a token: in memory, in a file, or none.
    fn make(&self, lengths: &[usize], width: usize) -> Option<HiddenStates> {
        let bytes = hidden::bytes_of(lengths, width);
        if let Some(grant) = self.memory(bytes) {
            return Some(HiddenStates::in_memory(lengths.to_vec(), width, grant));
        }
        let free = fs4::available_space(&self.folder).is_ok_and(|free| free / SPARE >= bytes);
        free.then(|| HiddenStates::in_file(lengths.to_vec(), width, &self.folder).ok()).flatten()
    }

    /// What the unit at work still needs for itself must be there after it.
    fn memory(&self, bytes: u64) -> Option<Grant> {
        if bytes > MOST_IN_MEMORY {
            return None;
        }
        let _reserve = self.ledger.hold(self.reserve, "a unit").ok()?;
        self.ledger.hold(bytes, "hidden states within a layer").ok()
    }
}

impl Kept {
    /// Nothing yet, and room for more: memory of the ledger, but for a reserve, and files in a folder.
    #[must_use]
    pub fn new(ledger: &Arc<Ledger>, reserve: u64, folder: PathBuf) -> Self {
        Self { room: Some(Room { ledger: Arc::clone(ledger), reserve, folder }), ..Self::nothing() }
    }

    /// Nothing, ever.
    #[must_use]
    pub fn nothing() -> Self {
        Self { at: BTreeMap::new(), growing: BTreeMap::new(), room: None }
    }

    /// The last point that a stretch to `until` can begin at.
    pub(super) fn last(&self, until: Option<Point>) -> Point {
        let usable = |point: Point| {
            until.is_none_or(|until| point <= until) && (point != Point::FfnMid || self.at.contains_key(&Point::FfnIn))
        };
        self.at.keys().copied().rfind(|point| usable(*point)).unwrap_or(Point::Start)
    }

    /// Forgets what depends on the weights that read a group; all, if it is none's.
    pub(super) fn forget_after(&mut self, group: Option<&InputGroup>) {
        match group {
            Some(group) => self.at.retain(|point, _| *point <= Point::of(group)),
            None => self.at.clear(),
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.at.clear();
        self.growing.clear();
    }

    /// A stretch begins.
    pub(super) fn begin(&mut self) {
        self.growing.clear();
    }

    /// A stretch has ended: what it kept takes the place of what is before.
    pub(super) fn end(&mut self) {
        for (point, kept) in std::mem::take(&mut self.growing) {
            let Some(kept) = kept else { continue };
            self.at.retain(|earlier, _| *earlier == Point::FfnIn && point == Point::FfnMid);
            self.at.insert(point, kept);
        }
    }

    /// Keeps what a batch has left.
    pub(super) fn add(&mut self, batch: &Batch, lengths: &[usize], left: &BTreeMap<Point, Vec<f32>>) {
        for (point, numbers) in left {
            self.add_at(*point, batch, lengths, numbers);
        }
    }

    /// Adds a batch to what is kept at a point. It is not kept if there is no room.
    fn add_at(&mut self, point: Point, batch: &Batch, lengths: &[usize], numbers: &[f32]) {
        let Some(room) = &self.room else { return };
        let width = numbers.len() / batch.tokens().max(1);
        let even = width > 0 && width * batch.tokens() == numbers.len();
        let kept = self.growing.entry(point).or_insert_with(|| even.then(|| room.make(lengths, width)).flatten());
        let fits = kept.as_mut().is_some_and(|kept| kept.width() == width && kept.write(batch, numbers).is_ok());
        if !fits {
            // A full disk costs time, and no run.
            *kept = None;
        }
    }
}

/// A batch on a stretch: what it goes on from, and what it leaves.
pub(super) struct Pieces<'a> {
    pub(super) stretch: Stretch,
    kept: &'a Kept,
    batch: &'a Batch,
    /// Numbers that were taken at the beginning.
    taken: usize,
    left: BTreeMap<Point, Vec<f32>>,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(stretch: Stretch, kept: &'a Kept, batch: &'a Batch) -> Self {
        Self { stretch, kept, batch, taken: 0, left: BTreeMap::new() }
    }

    /// The next numbers of what is kept at the beginning.
    pub(super) fn next(&mut self, count: usize) -> Result<Cow<'a, [f32]>, Error> {
        let first = self.taken;
        self.taken += count;
        self.part(self.stretch.from, first, count)
    }

    /// All that is kept of the batch at a point.
    pub(super) fn whole(&self, point: Point) -> Result<Cow<'a, [f32]>, Error> {
        let width = self.kept.at.get(&point).map_or(0, HiddenStates::width);
        self.part(point, 0, self.batch.tokens() * width)
    }

    fn part(&self, point: Point, first: usize, count: usize) -> Result<Cow<'a, [f32]>, Error> {
        // What is not there comes out too short, and the device refuses it.
        self.kept.at.get(&point).map_or(Ok(Cow::Borrowed(&[])), |kept| kept.part(self.batch, first, count))
    }

    /// Whether what is at a point is to be left.
    pub(super) fn keeps(&self, point: Point) -> bool {
        let room = self.kept.room.is_some() && self.kept.growing.get(&point).is_none_or(Option::is_some);
        room && self.stretch.keeps(point)
    }

    /// Room for more numbers at a point.
    pub(super) fn leave(&mut self, point: Point, count: usize) -> &mut [f32] {
        let left = self.left.entry(point).or_default();
        let start = left.len();
        left.resize(start + count, 0.0);
        &mut left[start..]
    }

    /// What is left.
    pub(super) fn left(self) -> BTreeMap<Point, Vec<f32>> {
        self.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: [usize; 2] = [3, 2];

    fn batches() -> [Batch; 2] {
        [Batch { first: 0, lengths: vec![3] }, Batch { first: 1, lengths: vec![2] }]
    }

    /// Numbers of a batch at a point, as many for each token as the point is late.
    fn numbers(batch: &Batch, point: Point) -> Vec<f32> {
        (0_u8..).take(batch.tokens() * (point as usize)).map(|number| f32::from(number) + 100.0).collect()
    }

    fn go(kept: &mut Kept, stretch: Stretch) {
        kept.begin();
        for batch in batches() {
            let mut pieces = Pieces::new(stretch, kept, &batch);
            for point in [Point::Latents, Point::AttentionOut, Point::FfnIn, Point::FfnMid] {
                if pieces.keeps(point) {
                    let numbers = numbers(&batch, point);
                    pieces.leave(point, numbers.len()).copy_from_slice(&numbers);
                }
            }
            let left = pieces.left();
            kept.add(&batch, &LENGTHS, &left);
        }
        kept.end();
    }

    fn to(kept: &Kept, point: Point) -> Stretch {
        Stretch { from: kept.last(Some(point)), until: Some(point) }
    }

    #[test]
    fn a_stretch_begins_where_the_last_one_ended_in_memory_and_in_files() {
        let folder = tempfile::tempdir().unwrap();
        for limit in [None, Some(8)] {
            let mut kept = Kept::new(&Arc::new(Ledger::new(limit)), 0, folder.path().to_owned());
            assert_eq!(kept.last(None), Point::Start);
            for point in [Point::AttentionOut, Point::FfnIn, Point::FfnMid] {
                let stretch = to(&kept, point);
                go(&mut kept, stretch);
                assert_eq!(kept.last(None), point);
                let [_, batch] = batches();
                let mut pieces = Pieces::new(to(&kept, point), &kept, &batch);
                assert_eq!(*pieces.whole(point).unwrap(), numbers(&batch, point));
                let (first, second) = (pieces.next(1).unwrap(), pieces.next(2).unwrap());
                assert_eq!([first, second].concat(), numbers(&batch, point)[..3]);
            }
            assert_eq!(kept.at.keys().copied().collect::<Vec<_>>(), [Point::FfnIn, Point::FfnMid]);
            assert!(kept.at.values().all(|kept| kept.is_spilled() == limit.is_some()));
        }
    }

    #[test]
    fn what_depends_on_other_weights_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let mut kept = Kept::new(&Arc::new(Ledger::new(None)), 0, folder.path().to_owned());
        go(&mut kept, Stretch { from: Point::Start, until: Some(Point::FfnMid) });
        kept.forget_after(Some(&InputGroup::FfnMid));
        assert_eq!((kept.last(None), kept.last(Some(Point::FfnIn))), (Point::FfnMid, Point::FfnIn));
        kept.forget_after(Some(&InputGroup::FfnIn));
        assert_eq!(kept.last(None), Point::FfnIn);
        kept.forget_after(Some(&InputGroup::AttentionIn));
        assert_eq!(kept.last(None), Point::Start);
        go(&mut kept, Stretch { from: Point::Start, until: Some(Point::FfnIn) });
        kept.forget_after(None);
        assert_eq!(kept.last(None), Point::Start);
    }

    #[test]
    fn where_there_is_no_room_nothing_is_kept() {
        let nowhere = tempfile::tempdir().unwrap().path().join("absent");
        let mut kept = Kept::new(&Arc::new(Ledger::new(Some(8))), 0, nowhere);
        go(&mut kept, Stretch { from: Point::Start, until: Some(Point::FfnIn) });
        assert_eq!(kept.last(None), Point::Start);
    }
}
