//! Taking turns: of several runs of one source, one works at a time, and they go through the layers side by side.
//!
//! A run gives its turn up before every unit. It gets it back when no other run is further behind, so that all make their
//! part of a layer while its rows are in the system's cache, and one that went on from less work catches up first. It
//! knows places alone, and nothing of what is done there.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How far a run is: whether it goes through the model for the second time, and how many units are behind it. The first
/// place is before all units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// 0, and 1 where everything was measured before.
    pub(super) pass: u32,
    /// Of the unit in the model's order, from 1.
    pub(super) position: usize,
}

/// A run's part in the taking of turns. When it is dropped unfinished, the others stop at their next border.
#[derive(Debug)]
pub(super) struct Turn {
    table: Arc<Table>,
    index: usize,
    work: Mutex<Work>,
}

#[derive(Debug)]
struct Table {
    seats: Mutex<Seats>,
    changed: Condvar,
}

#[derive(Debug)]
struct Seats {
    /// Of each run, its place; none of one that has ended.
    places: Vec<Option<Place>>,
    /// Whether one is at work.
    taken: bool,
    /// Whether one has failed.
    failed: bool,
}

#[derive(Debug, Default)]
struct Work {
    /// Since when it is this run's turn.
    since: Option<Instant>,
    before: Duration,
    finished: bool,
}

/// Another run has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stopped;

impl Table {
    fn of(runs: usize) -> Arc<Self> {
        let seats = Seats { places: vec![Some(Place::default()); runs], taken: false, failed: false };
        Arc::new(Self { seats: Mutex::new(seats), changed: Condvar::new() })
    }
}

impl Turn {
    /// So many runs, of which the first is the first to work.
    pub(super) fn of(runs: usize) -> Vec<Self> {
        let table = Table::of(runs);
        (0..runs).map(|index| Self { table: Arc::clone(&table), index, work: Mutex::default() }).collect()
    }

    /// One run that waits for nobody.
    pub(super) fn alone() -> Self {
        Self { table: Table::of(1), index: 0, work: Mutex::default() }
    }

    /// Waits until it is this run's turn to go on from a place, giving up the turn that it has.
    pub(super) fn wait_at(&self, place: Place) -> Result<(), Stopped> {
        let mut seats = self.rest();
        if let Some(own) = seats.places.get_mut(self.index) {
            *own = Some(place);
        }
        self.table.changed.notify_all();
        while !seats.failed && (seats.taken || seats.next() != Some(self.index)) {
            seats = self.table.changed.wait(seats).unwrap_or_else(PoisonError::into_inner);
        }
        if seats.failed {
            return Err(Stopped);
        }
        seats.taken = true;
        self.work().since = Some(Instant::now());
        Ok(())
    }

    /// Ends well: the others go on without this run.
    pub(super) fn finish(&self) {
        self.work().finished = true;
        self.leave(false);
    }

    /// The time that it was this run's turn.
    pub(super) fn worked(&self) -> Duration {
        let work = self.work();
        work.before + work.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Gives the turn up, if it is this run's.
    fn rest(&self) -> MutexGuard<'_, Seats> {
        let mut seats = self.table.seats.lock().unwrap_or_else(PoisonError::into_inner);
        let mut work = self.work();
        if let Some(since) = work.since.take() {
            work.before += since.elapsed();
            seats.taken = false;
        }
        seats
    }

    fn leave(&self, failed: bool) {
        let mut seats = self.rest();
        if let Some(own) = seats.places.get_mut(self.index) {
            *own = None;
        }
        seats.failed |= failed;
        self.table.changed.notify_all();
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let finished = self.work().finished;
        if !finished {
            self.leave(true);
        }
    }
}

impl Seats {
    /// The run that is furthest behind, of those at the same place the first.
    fn next(&self) -> Option<usize> {
        let places = self.places.iter().enumerate();
        places.filter_map(|(index, place)| Some((*place, index)).filter(|(place, _)| place.is_some())).min()?.1.into()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Has runs go through their places; gives who was where, in the order in which it was.
    fn walked(walks: &[&[(u32, usize)]]) -> Vec<(usize, (u32, usize))> {
        let seen = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for (turn, walk) in Turn::of(walks.len()).into_iter().zip(walks) {
                let seen = &seen;
                scope.spawn(move || {
                    for &(pass, position) in *walk {
                        turn.wait_at(Place { pass, position }).unwrap();
                        seen.lock().unwrap().push((turn.index, (pass, position)));
                    }
                    turn.finish();
                });
            }
        });
        seen.into_inner().unwrap()
    }

    #[test]
    fn runs_go_side_by_side_and_one_that_is_behind_catches_up() {
        let places = walked(&[&[(0, 0), (0, 3), (0, 4)], &[(0, 0), (0, 1), (0, 2), (0, 3), (0, 4)]]);
        let behind = [(1, (0, 1)), (1, (0, 2))];
        let expected =
            [&[(0, (0, 0)), (1, (0, 0))][..], &behind, &[(0, (0, 3)), (1, (0, 3)), (0, (0, 4)), (1, (0, 4))]];
        assert_eq!(places, expected.concat());
    }

    #[test]
    fn a_second_pass_begins_when_all_first_ones_have_ended() {
        let twice: &[(u32, usize)] = &[(0, 0), (0, 1), (0, 2), (1, 1), (1, 2)];
        let places = walked(&[twice, &[(0, 0), (0, 1), (0, 2)], twice]);
        let in_order: Vec<_> = places.iter().map(|(_, place)| *place).collect();
        assert!(in_order.is_sorted(), "{places:?}");
        assert_eq!(places.len(), 13);
    }

    #[test]
    fn when_one_fails_the_others_stop_at_their_next_border() {
        let mut turns = Turn::of(2);
        let (second, first) = (turns.pop().unwrap(), turns.pop().unwrap());
        first.wait_at(Place::default()).unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| second.wait_at(Place::default()));
            drop(first);
            assert_eq!(waiting.join().unwrap(), Err(Stopped));
        });
        assert!(second.wait_at(Place { pass: 0, position: 1 }).is_err());
    }

    #[test]
    fn only_the_time_of_its_own_turns_is_a_run_s() {
        let turns = Turn::of(2);
        turns[0].wait_at(Place::default()).unwrap();
        assert_eq!(turns[1].worked(), Duration::ZERO);
        turns[0].finish();
        let worked = turns[0].worked();
        turns[1].wait_at(Place::default()).unwrap();
        assert_eq!(turns[0].worked(), worked);
    }
}
