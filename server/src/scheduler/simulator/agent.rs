//! An agent: slots, requests for work, leases that run or wait for a slot, and reports.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use protocol::{LeaseId, Range, RangeSet};

use super::{Event, Grant, MILLI, Nanos, Piece, Request, SECOND, Timeline};

/// Slots whose elements take no longer have a lease fetched ahead.
const QUICK: Nanos = SECOND;

/// So much work a lease holds at the least: so many are ahead of a slot that they last for the way.
const LEAST_OF_A_LEASE: Nanos = SECOND / 20;

/// Leases that a slot has ahead at the most.
const MOST_AHEAD: Nanos = 8;
/// Slots that become free within this time are asked for together.
const BURST: Nanos = MILLI;
/// The time after which a worker sends on what is finished, between elements; of so few elements at once.
const FLUSH: Nanos = 5 * MILLI;
const FEW: usize = 8;
/// After an element that took longer, what is left of its frame comes back.
const SLOW: Nanos = 10 * MILLI;

#[derive(Debug)]
pub struct Agent<'a> {
    index: usize,
    /// Leases that a slot has ahead.
    ahead_of_a_slot: usize,
    times: &'a [Nanos],
    free: BTreeSet<u32>,
    quick: BTreeSet<u32>,
    held: BTreeMap<LeaseId, Held>,
    /// Leases that wait for a slot, in order.
    waiting: VecDeque<LeaseId>,
    /// The number of the request that is on its way, and the free slots it is for.
    asking: Option<(u64, u32)>,
    n_asked: u64,
    outbox: Vec<Piece>,
    is_reporting: bool,
    /// Elements that were begun, in order.
    pub begun: Vec<u64>,
}

/// A lease.
#[derive(Debug)]
struct Held {
    /// What has not begun.
    queue: VecDeque<u64>,
    slot: Option<u32>,
    pace: Pace,
    frame: Frame,
    /// Elements with an outcome that has not been accepted, or without one.
    unsettled: u64,
    is_releasing: bool,
    /// It was asked for while part of it was being given, or all of it was with a worker.
    is_wanted: bool,
}

/// What a worker runs of a lease.
#[derive(Debug, Default)]
struct Frame {
    began: Nanos,
    n_run: usize,
    /// Elements behind a slow one, which come back.
    rest: Vec<u64>,
}

/// How many elements go to a worker at once, as in the agent's `pace`.
#[derive(Debug)]
struct Pace {
    size: usize,
    mean: Option<f64>,
}

impl Pace {
    const FRAME: f64 = 0.02;
    const SLOW: f64 = 0.01;
    const MOST: usize = 50_000;
    const GROWTH: usize = 8;

    fn observe(&mut self, count: usize, time: Nanos) {
        let latest = time as f64 / SECOND as f64 / count as f64;
        let mean = self.mean.map_or(latest, |mean| latest.max(f64::midpoint(mean, latest)));
        self.mean = Some(mean);
        let fitting = (Self::FRAME / mean.max(1e-9)) as usize;
        let most = (count * Self::GROWTH).min(Self::MOST);
        self.size = if mean > Self::SLOW { 1 } else { fitting.clamp(1, most) };
    }

    fn is_quick(&self) -> bool {
        self.mean.is_some_and(|mean| mean * SECOND as f64 <= QUICK as f64)
    }
}

impl<'a> Agent<'a> {
    /// One of `slots` free slots, for elements that take `times`.
    pub fn new(index: usize, slots: u32, round_trip: Nanos, times: &'a [Nanos]) -> Self {
        let lasting = round_trip.div_ceil(LEAST_OF_A_LEASE).clamp(1, MOST_AHEAD);
        Self {
            index,
            ahead_of_a_slot: lasting as usize,
            times,
            free: (0..slots).collect(),
            quick: BTreeSet::new(),
            held: BTreeMap::new(),
            waiting: VecDeque::new(),
            asking: None,
            n_asked: 0,
            outbox: Vec::new(),
            is_reporting: false,
            begun: Vec::new(),
        }
    }

    /// Its first request.
    pub fn start(&mut self) -> (usize, Request) {
        (self.index, self.request())
    }

    fn request(&mut self) -> Request {
        let free = self.free.len() as u32;
        self.n_asked += 1;
        self.asking = Some((self.n_asked, free));
        Request { number: self.n_asked, free, ahead: self.ahead(), held: self.held_ids() }
    }

    fn held_ids(&self) -> Vec<LeaseId> {
        self.held.keys().copied().collect()
    }

    /// Leases to hold beside those that run.
    fn ahead(&self) -> u32 {
        (self.quick.len() * self.ahead_of_a_slot).saturating_sub(self.waiting.len()) as u32
    }

    /// Asks for work, if it wants any and has not asked; soon, if it has asked for less.
    fn ask(&mut self, timeline: &mut Timeline) {
        let free = self.free.len() as u32;
        match self.asking {
            None if free > 0 || self.ahead() > 0 => {
                let request = self.request();
                timeline.send(Event::Asks(self.index, request));
            }
            Some((number, asked)) if free > asked => {
                timeline.after(BURST, Event::Burst(self.index, number));
            }
            _ => {}
        }
    }

    /// Asks anew in place of request `number`, if that still waits.
    pub fn ask_better(&mut self, number: u64, timeline: &mut Timeline) {
        if self.asking.is_some_and(|(asking, _)| asking == number) {
            self.asking = None;
            self.ask(timeline);
        }
    }

    /// Takes leases. Those that it holds were given twice, because requests had crossed.
    pub fn granted(&mut self, number: u64, grants: Vec<Grant>, timeline: &mut Timeline) {
        for Grant { lease, ranges } in grants {
            if self.held.contains_key(&lease) {
                continue;
            }
            let held = Held {
                queue: ranges.indexes().collect(),
                slot: None,
                pace: Pace { size: 1, mean: None },
                frame: Frame::default(),
                unsettled: ranges.len(),
                is_releasing: false,
                is_wanted: false,
            };
            self.held.insert(lease, held);
            self.waiting.push_back(lease);
        }
        self.serve(timeline);
        if self.asking.is_some_and(|(asking, _)| asking == number) {
            self.asking = None;
        }
        self.ask(timeline);
    }

    /// Gives free slots to leases that wait for one.
    fn serve(&mut self, timeline: &mut Timeline) {
        while let Some(&lease) = self.waiting.front()
            && let Some(slot) = self.free.pop_first()
        {
            self.waiting.pop_front();
            if let Some(held) = self.held.get_mut(&lease) {
                held.slot = Some(slot);
            }
            self.run_frame(lease, timeline);
        }
    }

    /// Has a worker run the next elements of a lease.
    fn run_frame(&mut self, lease: LeaseId, timeline: &mut Timeline) {
        let Some(held) = self.held.get_mut(&lease) else { return };
        let n = held.pace.size.min(held.queue.len());
        let frame: Vec<u64> = held.queue.drain(..n).collect();
        let patience = if n > FEW { FLUSH } else { 0 };
        let (mut at, mut time, mut elements) = (0, 0, Vec::new());
        held.frame = Frame { began: timeline.now, ..Frame::default() };
        for (i, &element) in frame.iter().enumerate() {
            time += self.times[element as usize];
            elements.push(element);
            self.begun.push(element);
            let is_end = i + 1 == n || time > SLOW;
            if is_end || time > patience {
                at += time;
                let ran = elements.drain(..).map(|element| Range(element, element + 1));
                let piece = Piece { lease, elements: ran.collect(), time };
                timeline.after(at, Event::Ran(self.index, piece, is_end));
                time = 0;
            }
            if is_end {
                held.frame.n_run = i + 1;
                held.frame.rest = frame[i + 1..].to_vec();
                break;
            }
        }
    }

    /// Takes outcomes from a worker, which goes on with its lease when the frame has ended.
    pub fn ran(&mut self, piece: Piece, is_end: bool, timeline: &mut Timeline) {
        let lease = piece.lease;
        self.outbox.push(piece);
        self.report(timeline);
        let Some(held) = self.held.get_mut(&lease).filter(|_| is_end) else { return };
        let Frame { began, n_run, rest } = std::mem::take(&mut held.frame);
        held.pace.observe(n_run, timeline.now - began);
        if !rest.is_empty() {
            held.pace.size = 1;
            rest.into_iter().rev().for_each(|element| held.queue.push_front(element));
        }
        let is_wanted = !held.queue.is_empty() && std::mem::take(&mut held.is_wanted);
        let (is_quick, is_over) = (held.pace.is_quick(), held.queue.is_empty());
        let Some(slot) = held.slot else { return };
        if is_quick {
            self.quick.insert(slot);
        } else {
            self.quick.remove(&slot);
        }
        if is_over {
            self.free.insert(slot);
            self.serve(timeline);
        } else {
            // What it keeps it goes on with.
            if is_wanted {
                self.give(lease, timeline);
            }
            self.run_frame(lease, timeline);
        }
        self.ask(timeline);
    }

    /// Reports what is finished, unless a report is on its way.
    fn report(&mut self, timeline: &mut Timeline) {
        if !self.is_reporting && !self.outbox.is_empty() {
            self.is_reporting = true;
            let pieces = std::mem::take(&mut self.outbox);
            timeline.send(Event::Reports(self.index, pieces));
        }
    }

    /// These outcomes were accepted.
    pub fn reported(&mut self, pieces: &[Piece], timeline: &mut Timeline) {
        for piece in pieces {
            if let Some(held) = self.held.get_mut(&piece.lease) {
                held.unsettled -= piece.elements.len();
            }
            self.drop_settled(piece.lease);
        }
        self.is_reporting = false;
        self.report(timeline);
    }

    /// Holds a lease no more that is over.
    fn drop_settled(&mut self, lease: LeaseId) {
        if self.held.get(&lease).is_some_and(|held| held.unsettled == 0 && !held.is_releasing) {
            self.held.remove(&lease);
        }
    }

    /// Gives to others what has not begun of these leases, and sends the next heartbeat.
    pub fn wanted(&mut self, leases: &[LeaseId], timeline: &mut Timeline) {
        for &lease in leases {
            self.give(lease, timeline);
        }
        timeline.send(Event::Beats(self.index, self.held_ids()));
    }

    /// Gives all of a lease that waits for a slot; of one that runs, half of what has not begun.
    fn give(&mut self, lease: LeaseId, timeline: &mut Timeline) {
        let Some(held) = self.held.get_mut(&lease) else { return };
        if held.is_releasing {
            held.is_wanted = true;
            return;
        }
        let n_kept = if held.slot.is_some() { held.queue.len() / 2 } else { 0 };
        let given = held.queue.split_off(n_kept);
        let part: RangeSet = given.into_iter().map(|i| Range(i, i + 1)).collect();
        if part.is_empty() {
            held.is_wanted = true;
            return;
        }
        held.unsettled -= part.len();
        held.is_releasing = true;
        self.waiting.retain(|&waiting| waiting != lease);
        timeline.send(Event::Releases(self.index, lease, part));
        self.ask(timeline);
    }

    /// The server has what was given of a lease.
    pub fn released(&mut self, lease: LeaseId, timeline: &mut Timeline) {
        let Some(held) = self.held.get_mut(&lease) else { return };
        held.is_releasing = false;
        if std::mem::take(&mut held.is_wanted) {
            self.give(lease, timeline);
        }
        self.drop_settled(lease);
    }
}
