//! Finished outcomes in the pieces in which they are reported.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use protocol::agent::{Note, Piece, Report};
use protocol::artifact::MOST_ARTIFACTS;
use protocol::job::ElementError;
use protocol::{JobId, LeaseId};

use crate::runtimes::Outcomes;

/// Bytes of payload at which a piece is full.
pub const PIECE_BYTES: usize = 1 << 20;
/// Bytes of a single value that is not copied, but shared with the frame that it came in.
const LARGE: usize = 64 << 10;
/// Outcomes at which a piece is full.
const PIECE_OUTCOMES: usize = 100_000;

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
    pub outcomes: Outcomes,
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
    pub body: Bytes,
    /// Whether it may end its job.
    pub may_end_job: bool,
}

impl Parcel {
    /// The outcomes as a parcel of their own.
    pub fn of(finished: Finished) -> Self {
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
        if let [Ok(value)] = &outcomes[..]
            && value.len() >= LARGE
        {
            piece.lengths.push(position(value.len()));
            return Self { piece, body: value.clone(), may_end_job };
        }
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
        Self { piece, body: body.into(), may_end_job }
    }

    /// How many outcomes it holds.
    pub fn count(&self) -> usize {
        self.piece.lengths.len()
    }

    /// About how many bytes of memory it takes.
    pub fn size(&self) -> usize {
        let texts = self.piece.notes.iter().map(|note| {
            let conditions =
                note.conditions.iter().map(|said| said.kind.len() + said.message.len());
            let files = note.artifacts.iter();
            let files = files.map(|file| size_of_val(file) + file.name.len() + file.digest.len());
            note.stdout.len() + note.stderr.len() + conditions.sum::<usize>() + files.sum::<usize>()
        });
        let notes = self.piece.notes.len() * size_of::<Note>() + texts.sum::<usize>();
        size_of::<Self>() + self.body.len() + self.count() * size_of::<u32>() + notes
    }

    /// Whether `next` continues this parcel, and there is room for it.
    pub fn has_room_for(&self, next: &Self) -> bool {
        self.piece.first + self.count() as u64 == next.piece.first
            && self.piece.pid == next.piece.pid
            && self.body.len() + next.body.len() <= PIECE_BYTES
            && self.count() + next.count() <= PIECE_OUTCOMES
            && self.artifacts() + next.artifacts() <= MOST_ARTIFACTS
    }

    /// Files that its elements have left behind: a list of them is not small.
    fn artifacts(&self) -> usize {
        self.piece.notes.iter().map(|note| note.artifacts.len()).sum()
    }

    /// Takes in the outcomes of `next`, which continue its own.
    pub fn append(&mut self, next: Self) {
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
        // In place, if it has room for more.
        let joined = std::mem::take(&mut self.body).try_into_mut();
        let mut joined = joined.unwrap_or_else(|body| BytesMut::from(&body[..]));
        joined.extend_from_slice(&next.body);
        self.body = joined.freeze();
    }
}

/// Positions and lengths on the wire are 32 bits wide; no body of 4 GiB reaches a report, because
/// no frame holds one.
fn position(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// The header and the payloads of the report that carries these parcels.
pub fn report_of(parcels: &[Arc<Parcel>]) -> (Report, Vec<Bytes>) {
    let pieces = parcels.iter().map(|parcel| parcel.piece.clone()).collect();
    let bodies = parcels.iter().map(|parcel| parcel.body.clone()).collect();
    (Report { pieces }, bodies)
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
        let body = parcel.body.slice(start..end);
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
    Parcel { piece, body: body.into(), may_end_job: parcel.may_end_job }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Values of elements from `first` on, the first of which printed itself.
    pub fn finished(lease: LeaseId, first: u64, values: &[&str]) -> Finished {
        let outcomes =
            values.iter().map(|value| Ok(Bytes::copy_from_slice(value.as_bytes()))).collect();
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

    /// An error of an element.
    pub fn error(message: &str) -> ElementError {
        ElementError {
            kind: "E".into(),
            message: message.into(),
            call: None,
            traceback: Vec::new(),
            fatal: false,
        }
    }

    #[test]
    fn a_split_parcel_says_the_same_as_the_whole() {
        let mut whole = finished(LeaseId::new(), 3, &["1", "22"]);
        whole.outcomes.push(Err(error("no")));
        let parts = split(&Parcel::of(whole));
        assert_eq!(parts.iter().map(|p| p.piece.first).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(&parts[1].body[..], b"22");
        assert_eq!((parts[0].piece.notes.len(), parts[1].piece.notes.len()), (1, 0));
        assert_eq!((&parts[1].piece.errors[..], &parts[2].piece.errors[..]), (&[][..], &[0][..]));
        let replaced = replace(&parts[1], &error("too large"));
        assert_eq!((replaced.piece.first, &replaced.piece.errors[..]), (4, &[0][..]));
    }

    #[test]
    fn a_large_value_is_shared_and_joined_with_what_follows_it() {
        let large = Bytes::from(vec![b'1'; LARGE]);
        let of = |first, value: &Bytes| {
            let outcomes = vec![Ok(value.clone())];
            Parcel::of(Finished { outcomes, ..finished(LeaseId::new(), first, &["", ""]) })
        };
        let mut parcel = of(3, &large);
        assert_eq!(parcel.body.as_ptr(), large.as_ptr());
        assert_ne!(of(3, &large.slice(1..)).body.as_ptr(), large[1..].as_ptr());
        let next = of(4, &Bytes::from_static(b"22"));
        assert!(parcel.has_room_for(&next));
        parcel.append(next);
        assert_eq!(parcel.piece.lengths, [position(LARGE), 2]);
        assert_eq!(parcel.body, [&large[..], b"22"].concat());
        let (report, bodies) = report_of(&[Arc::new(parcel), Arc::new(of(9, &large))]);
        assert_eq!(
            bodies.iter().map(|body| body.len() as u64).sum::<u64>(),
            report.pieces.iter().map(Piece::n_bytes).sum::<u64>()
        );
    }
}
