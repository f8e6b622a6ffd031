//! Outcomes that are finished and not accepted yet.
//!
//! Neighbouring outcomes of one lease and one worker become one [`Piece`]. What has been sent once
//! is sent again in the very same pieces until the server has judged them, because only so can it
//! tell a repetition from something new.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::agent::{Note, Piece, Report};
use protocol::job::ElementError;
use protocol::{JobId, LeaseId};
use tokio::sync::Notify;

/// Bytes of payload at which a piece is full.
const PIECE_BYTES: usize = 1 << 20;
/// Outcomes at which a piece is full.
const PIECE_OUTCOMES: usize = 100_000;
/// Bytes of payload at which a report is full, unless its first piece alone is larger.
const REPORT_BYTES: usize = 4 << 20;

/// Neighbouring elements that one worker has finished.
#[derive(Debug)]
pub struct Finished {
    /// The lease they belong to.
    pub lease: LeaseId,
    /// The job they belong to.
    pub job: JobId,
    /// The index of the first.
    pub first: u64,
    /// What became of each: the JSON of its value, or its error.
    pub outcomes: Vec<Result<Vec<u8>, ElementError>>,
    /// What else is to say of some, by their position from 0.
    pub notes: Vec<Note>,
    /// The slot that ran them.
    pub slot: u32,
    /// The worker's process id.
    pub pid: u32,
    /// When the first started, in milliseconds since 1970.
    pub started_at: u64,
    /// Seconds that they took.
    pub seconds: f64,
    /// Whether they may end their job: nothing of the lease is left to run, or they fail it.
    pub may_end_job: bool,
}

/// A piece and its payloads.
#[derive(Clone, Debug, PartialEq)]
pub struct Parcel {
    /// The piece.
    pub piece: Piece,
    /// The bytes that belong to it.
    pub body: Vec<u8>,
    /// Whether it may end its job.
    pub may_end_job: bool,
}

impl Parcel {
    fn of(finished: Finished) -> Self {
        let Finished { lease, job, first, outcomes, notes, slot, pid, .. } = finished;
        let Finished { started_at, seconds, may_end_job, .. } = finished;
        let mut piece = Piece {
            lease,
            job,
            first,
            lengths: Vec::with_capacity(outcomes.len()),
            errors: Vec::new(),
            slot,
            pid,
            started_at,
            seconds,
            notes,
        };
        let mut body = Vec::new();
        for outcome in outcomes {
            let start = body.len();
            match outcome {
                Ok(value) => body.extend_from_slice(&value),
                Err(error) => {
                    piece.errors.push(position(piece.lengths.len()));
                    // An error is strings and a flag, which always can be written.
                    serde_json::to_writer(&mut body, &error).unwrap_or_default();
                }
            }
            piece.lengths.push(position(body.len() - start));
        }
        Self { piece, body, may_end_job }
    }

    fn count(&self) -> usize {
        self.piece.lengths.len()
    }

    /// Whether `next` continues this parcel, and there is room for it.
    fn has_room_for(&self, next: &Self) -> bool {
        self.piece.first + self.count() as u64 == next.piece.first
            && self.piece.pid == next.piece.pid
            && self.body.len() + next.body.len() <= PIECE_BYTES
            && self.count() + next.count() <= PIECE_OUTCOMES
    }

    fn append(&mut self, next: Self) {
        let offset = position(self.count());
        let own = &mut self.piece;
        own.errors.extend(next.piece.errors.iter().map(|error| error + offset));
        own.notes.extend(
            next.piece
                .notes
                .into_iter()
                .map(|note| Note { position: note.position + offset, ..note }),
        );
        own.lengths.extend(next.piece.lengths);
        own.seconds += next.piece.seconds;
        self.may_end_job |= next.may_end_job;
        self.body.extend(next.body);
    }
}

/// Positions and lengths on the wire are 32 bits wide; no body of 4 GiB reaches a report, because
/// no frame holds one.
fn position(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// What waits to be reported, and what has been sent and not been judged.
#[derive(Debug, Default)]
pub struct Outbox {
    contents: Mutex<Contents>,
    filled: Notify,
    settled: Notify,
}

#[derive(Debug, Default)]
struct Contents {
    /// Pieces that the next outcome may join: the latest of each lease and slot.
    open: BTreeMap<(LeaseId, u32), Parcel>,
    /// Full pieces.
    full: VecDeque<Parcel>,
    /// How many outcomes of a lease are in here or on their way.
    unsettled: BTreeMap<LeaseId, usize>,
}

impl Outbox {
    /// Puts outcomes in.
    pub fn put(&self, finished: Finished) {
        let parcel = Parcel::of(finished);
        let key = (parcel.piece.lease, parcel.piece.slot);
        let mut contents = self.lock();
        *contents.unsettled.entry(key.0).or_default() += parcel.count();
        let full = match contents.open.get_mut(&key) {
            Some(open) if open.has_room_for(&parcel) => {
                open.append(parcel);
                None
            }
            _ => contents.open.insert(key, parcel),
        };
        contents.full.extend(full);
        drop(contents);
        self.filled.notify_one();
    }

    /// Waits until there is something to report, and takes as much as one report holds.
    pub async fn take(&self) -> Vec<Parcel> {
        loop {
            let parcels = self.lock().take();
            if !parcels.is_empty() {
                return parcels;
            }
            self.filled.notified().await;
        }
    }

    /// Notes that the server has judged these, or that they are of no use any more.
    pub fn settle(&self, parcels: &[Parcel]) {
        let mut contents = self.lock();
        for parcel in parcels {
            contents.settle(parcel.piece.lease, parcel.count());
        }
        drop(contents);
        self.settled.notify_waiters();
    }

    /// Throws away what waits of a lease that is lost.
    pub fn discard(&self, lease: LeaseId) {
        let mut contents = self.lock();
        let open: Vec<_> = contents
            .open
            .extract_if(.., |key, _| key.0 == lease)
            .map(|(_, parcel)| parcel)
            .collect();
        let (gone, kept) = std::mem::take(&mut contents.full)
            .into_iter()
            .partition::<Vec<_>, _>(|parcel| parcel.piece.lease == lease);
        contents.full = kept.into();
        for parcel in open.iter().chain(&gone) {
            contents.settle(lease, parcel.count());
        }
        drop(contents);
        self.settled.notify_waiters();
    }

    /// Waits until nothing of a lease is in here or on its way.
    pub async fn settled(&self, lease: LeaseId) {
        loop {
            let settled = self.settled.notified();
            if !self.lock().unsettled.contains_key(&lease) {
                return;
            }
            settled.await;
        }
    }

    /// Outcomes that no server has accepted.
    pub fn unsettled(&self) -> usize {
        self.lock().unsettled.values().sum()
    }

    /// The lock is held for moments only and never while something is waited for.
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    fn take(&mut self) -> Vec<Parcel> {
        self.full.extend(std::mem::take(&mut self.open).into_values());
        let mut size = 0;
        let fitting = self.full.iter().take_while(|parcel| {
            size += parcel.body.len();
            size <= REPORT_BYTES
        });
        let count = fitting.count().max(1).min(self.full.len());
        self.full.drain(..count).collect()
    }

    fn settle(&mut self, lease: LeaseId, count: usize) {
        if let Some(unsettled) = self.unsettled.get_mut(&lease) {
            *unsettled = unsettled.saturating_sub(count);
            if *unsettled == 0 {
                self.unsettled.remove(&lease);
            }
        }
    }
}

/// The header and the payloads of the report that carries these parcels.
pub fn report_of(parcels: &[Parcel]) -> (Report, Vec<u8>) {
    let pieces = parcels.iter().map(|parcel| parcel.piece.clone()).collect();
    (Report { pieces }, parcels.iter().flat_map(|parcel| parcel.body.iter().copied()).collect())
}

/// Takes a parcel apart into parcels of one outcome each.
pub fn split(parcel: &Parcel) -> Vec<Parcel> {
    let mut start = 0;
    let mut parts = Vec::with_capacity(parcel.count());
    for (at, length) in (0..).zip(&parcel.piece.lengths) {
        let end = start + *length as usize;
        let is_error = parcel.piece.errors.contains(&at);
        let notes = parcel.piece.notes.iter().filter(|note| note.position == at);
        let piece = Piece {
            first: parcel.piece.first + u64::from(at),
            lengths: vec![*length],
            errors: if is_error { vec![0] } else { Vec::new() },
            notes: notes.map(|note| Note { position: 0, ..note.clone() }).collect(),
            seconds: parcel.piece.seconds / f64::from(position(parcel.count())),
            ..parcel.piece.clone()
        };
        let body = parcel.body[start..end].to_vec();
        parts.push(Parcel { piece, body, may_end_job: parcel.may_end_job });
        start = end;
    }
    parts
}

/// Puts an error in the place of a parcel's only outcome, and drops what it printed.
pub fn replace(parcel: &Parcel, error: &ElementError) -> Parcel {
    let body = serde_json::to_vec(error).unwrap_or_default();
    let piece = Piece {
        lengths: vec![position(body.len())],
        errors: vec![0],
        notes: Vec::new(),
        ..parcel.piece.clone()
    };
    Parcel { piece, body, may_end_job: parcel.may_end_job }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn finished(lease: LeaseId, first: u64, values: &[&str]) -> Finished {
        let outcomes = values.iter().map(|value| Ok(value.as_bytes().to_vec())).collect();
        let job = JobId::new();
        let notes = vec![Note { position: 0, stdout: values[0].to_owned(), ..Note::default() }];
        Finished {
            lease,
            job,
            first,
            outcomes,
            notes,
            slot: 1,
            pid: 7,
            started_at: first,
            seconds: 0.5,
            may_end_job: false,
        }
    }

    fn error(message: &str) -> ElementError {
        ElementError {
            kind: "E".into(),
            message: message.into(),
            call: None,
            traceback: Vec::new(),
            fatal: false,
        }
    }

    #[test]
    fn neighbours_become_one_piece() {
        let (outbox, lease) = (Outbox::default(), LeaseId::new());
        outbox.put(finished(lease, 3, &["1", "22"]));
        let mut next = finished(lease, 5, &["333", ""]);
        next.outcomes[1] = Err(error("no"));
        outbox.put(next);
        let parcels = outbox.take().now_or_never().unwrap();
        let [Parcel { piece, body, .. }] = &parcels[..] else { panic!("{parcels:?}") };
        assert_eq!((piece.first, piece.errors.as_slice()), (3, &[3][..]));
        assert_eq!(piece.lengths[..3], [1, 2, 3]);
        assert_eq!(piece.notes.iter().map(|note| note.position).collect::<Vec<_>>(), [0, 2]);
        assert!((piece.seconds - 1.0).abs() < 1e-9);
        assert_eq!(body, br#"122333{"type":"E","message":"no"}"#);
    }

    #[test]
    fn gaps_other_workers_and_full_pieces_begin_a_new_piece() {
        let (outbox, lease) = (Outbox::default(), LeaseId::new());
        outbox.put(finished(lease, 0, &["1"]));
        outbox.put(finished(lease, 2, &["2"]));
        outbox.put(Finished { pid: 8, ..finished(lease, 3, &["3"]) });
        outbox.put(Finished { slot: 2, ..finished(lease, 4, &["4"]) });
        outbox.put(Finished { pid: 8, ..finished(lease, 4, &[&"x".repeat(PIECE_BYTES)]) });
        let parcels = outbox.take().now_or_never().unwrap();
        assert_eq!(parcels.iter().map(|p| p.piece.first).collect::<Vec<_>>(), [0, 2, 3, 4, 4]);
    }

    #[test]
    fn a_report_is_bounded_but_takes_what_is_large_by_itself() {
        let (outbox, lease) = (Outbox::default(), LeaseId::new());
        outbox.put(finished(lease, 0, &[&"x".repeat(REPORT_BYTES + 1)]));
        outbox.put(finished(lease, 1, &["1"]));
        for rest in [1, 0] {
            assert_eq!(outbox.take().now_or_never().unwrap().len(), 1);
            assert_eq!(outbox.lock().full.len(), rest);
        }
        assert!(outbox.take().now_or_never().is_none());
    }

    #[test]
    fn a_lease_is_settled_when_all_of_it_is() {
        let (outbox, lease) = (Outbox::default(), LeaseId::new());
        outbox.put(finished(lease, 0, &["1"]));
        let first = outbox.take().now_or_never().unwrap();
        outbox.put(finished(lease, 1, &["2"]));
        outbox.settle(&first);
        assert!(outbox.settled(lease).now_or_never().is_none());
        outbox.discard(lease);
        assert!(outbox.settled(lease).now_or_never().is_some());
        assert_eq!(outbox.unsettled(), 0);
        assert!(outbox.take().now_or_never().is_none());
    }

    #[test]
    fn a_split_parcel_says_the_same_as_the_whole() {
        let mut whole = finished(LeaseId::new(), 3, &["1", "22"]);
        whole.outcomes.push(Err(error("no")));
        let parts = split(&Parcel::of(whole));
        assert_eq!(parts.iter().map(|p| p.piece.first).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(parts[1].body, b"22");
        assert_eq!((parts[0].piece.notes.len(), parts[1].piece.notes.len()), (1, 0));
        assert_eq!((&parts[1].piece.errors[..], &parts[2].piece.errors[..]), (&[][..], &[0][..]));
        let replaced = replace(&parts[1], &error("too large"));
        assert_eq!((replaced.piece.first, &replaced.piece.errors[..]), (4, &[0][..]));
    }
}
