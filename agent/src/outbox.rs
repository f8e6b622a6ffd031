//! Outcomes that are finished and not accepted yet.
//!
//! Neighbouring outcomes of one lease and one worker become one [`Piece`](protocol::agent::Piece).
//! What has been sent once is sent again in the very same pieces until the server has judged them,
//! because only so can it tell a repetition from something new. What has to wait is written to the
//! [`spool`](crate::spool), also in the very same pieces, and leaves memory when there is too much
//! of it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::LeaseId;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::clock;
use crate::parcel::{Finished, Parcel};
use crate::spool::{Place, SpoolFolder, Stretch};

/// Bytes at which a report is full, unless its first piece alone is larger.
pub const REPORT_BYTES: usize = 4 << 20;
/// Bytes of memory that outcomes take, from which on those that are on disk leave it.
const MOST_BYTES: usize = 64 << 20;

/// How long it waits before what could not be read is tried again.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// What waits to be reported, and what has been sent and not been judged.
#[derive(Debug)]
pub struct Outbox {
    contents: Mutex<Contents>,
    folder: SpoolFolder,
    most_bytes: usize,
    filled: Notify,
    settled: Notify,
    /// For who keeps outcomes on disk: there is too much in memory.
    pressed: Notify,
}

#[derive(Debug, Default)]
struct Contents {
    /// Pieces that the next outcome may join: the latest of each lease and slot.
    open: BTreeMap<(LeaseId, u32), Waiting>,
    /// Full pieces.
    full: VecDeque<Entry>,
    /// Pieces that are being reported.
    in_flight: Vec<Waiting>,
    /// How many outcomes of a lease are in here or on their way.
    unsettled: BTreeMap<LeaseId, usize>,
    /// How many of these are on their way.
    travelling: BTreeMap<LeaseId, usize>,
    /// Leases that were lost while outcomes of them stood on disk: those of their parcels whose
    /// number is below this are thrown away once they are read.
    discarded: BTreeMap<LeaseId, u64>,
    /// Whether a stretch is being read from disk.
    reading: bool,
    /// Records on disk that are settled and not told of yet, by segment.
    freed: BTreeMap<u64, usize>,
    /// Bytes of memory that all this takes.
    bytes: usize,
    /// The number of the next parcel.
    next: u64,
}

/// A parcel in memory.
#[derive(Clone, Debug)]
struct Waiting {
    number: u64,
    parcel: Arc<Parcel>,
    /// When its first outcome was finished.
    since: Instant,
    size: usize,
    /// Where it also is on disk.
    place: Option<Place>,
}

/// What waits in its turn.
#[derive(Debug)]
enum Entry {
    Here(Waiting),
    Away(Stretch),
}

/// What is the next to be reported.
enum Next {
    Nothing,
    Parcels(Vec<Arc<Parcel>>),
    /// To be read first.
    Away(Stretch),
}

impl Outbox {
    /// An empty one, for an agent that keeps outcomes in `folder`.
    pub fn new(folder: SpoolFolder) -> Self {
        let contents = Mutex::default();
        let (filled, settled, pressed) = Default::default();
        Self { contents, folder, most_bytes: MOST_BYTES, filled, settled, pressed }
    }

    /// Puts outcomes in.
    pub fn put(&self, finished: Finished) {
        let parcel = Parcel::of(finished);
        let mut contents = self.lock();
        contents.put(parcel, clock::now());
        let is_pressed = contents.bytes > self.most_bytes;
        drop(contents);
        self.filled.notify_one();
        if is_pressed {
            self.pressed.notify_one();
        }
    }

    /// Waits until there is something to report, and takes as much as one report holds. Once all
    /// of it is judged, [`Outbox::reported`] is to be called, before the next is taken.
    pub async fn take(&self) -> Vec<Arc<Parcel>> {
        loop {
            let next = self.lock().next();
            match next {
                Next::Parcels(parcels) => return parcels,
                Next::Away(stretch) => self.bring_back(stretch).await,
                Next::Nothing => self.filled.notified().await,
            }
        }
    }

    /// Reads what is on disk only, as much as one report holds.
    async fn bring_back(&self, stretch: Stretch) {
        let (folder, mut rest) = (self.folder.clone(), stretch.clone());
        let reading =
            spawn_blocking(move || folder.read(&mut rest, REPORT_BYTES).map(|read| (rest, read)));
        match reading.await.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
            Ok((rest, read)) => self.lock().bring_back(rest, read),
            Err(error) if is_damage(&error) => {
                let path = self.folder.path();
                tracing::error!(folder = %path.display(), %error, outcomes = stretch.counts.values().sum::<usize>(),
                    "outcomes on disk are damaged; their elements will run again");
                self.lock().lose(&stretch);
                self.settled.notify_waiters();
            }
            // Too many open files, say, or a disk that does not answer: what was written is good.
            Err(error) => {
                let path = self.folder.path();
                tracing::error!(folder = %path.display(), %error,
                    "outcomes cannot be read back now; tried again in a moment");
                sleep(PAUSE_AFTER_FAILURE).await;
                self.lock().put_back(stretch);
            }
        }
    }

    /// Notes that the server has judged these, or that they are of no use any more.
    pub fn settle(&self, parcels: &[Arc<Parcel>]) {
        let mut contents = self.lock();
        for parcel in parcels {
            let (lease, count) = (parcel.piece.lease, parcel.count());
            subtract(&mut contents.travelling, lease, count);
            subtract(&mut contents.unsettled, lease, count);
        }
        drop(contents);
        self.settled.notify_waiters();
    }

    /// Notes that all that was taken is judged.
    pub fn reported(&self) {
        let mut contents = self.lock();
        for waiting in std::mem::take(&mut contents.in_flight) {
            contents.bytes -= waiting.size;
            contents.free(waiting.place);
        }
    }

    /// Throws away what waits of a lease that is lost.
    pub fn discard(&self, lease: LeaseId) {
        self.lock().discard(lease);
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

    /// What is to be written to disk: parcels that are not there yet and whose first outcome was
    /// finished `patience` ago or earlier; if there is too much in memory, all of them. No outcome
    /// joins them any more.
    pub fn due(&self, patience: Duration) -> Vec<(u64, Arc<Parcel>)> {
        let mut contents = self.lock();
        let is_pressed = contents.bytes > self.most_bytes;
        let now = clock::now();
        contents.due(|waiting| is_pressed || now - waiting.since >= patience)
    }

    /// Notes that parcels are on disk. If there is too much in memory, these leave it.
    pub fn kept(&self, places: Vec<(u64, Place)>) {
        let mut contents = self.lock();
        contents.kept(places.into_iter().collect());
        if contents.bytes > self.most_bytes {
            contents.move_out();
        }
    }

    /// Records on disk that have been settled since the last call, by segment.
    pub fn freed(&self) -> BTreeMap<u64, usize> {
        std::mem::take(&mut self.lock().freed)
    }

    /// Waits until there is too much in memory.
    pub async fn pressed(&self) {
        self.pressed.notified().await;
    }

    /// The lock is held for moments only and never while something is waited for.
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether what was written is not there any more as it was, so that reading it again is of no use.
fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    matches!(error.kind(), InvalidData | NotFound | UnexpectedEof)
}

impl Contents {
    fn put(&mut self, parcel: Parcel, now: Instant) {
        let (key, size) = ((parcel.piece.lease, parcel.piece.slot), parcel.size());
        *self.unsettled.entry(key.0).or_default() += parcel.count();
        self.bytes += size;
        if let Some(open) = self.open.get_mut(&key)
            && open.parcel.has_room_for(&parcel)
            // Nobody else has an open one.
            && let Some(joined) = Arc::get_mut(&mut open.parcel)
        {
            joined.append(parcel);
            open.size += size;
            return;
        }
        let number = self.next;
        self.next += 1;
        let parcel = Arc::new(parcel);
        let waiting = Waiting { number, parcel, since: now, size, place: None };
        let full = self.open.insert(key, waiting);
        self.full.extend(full.map(Entry::Here));
    }

    fn next(&mut self) -> Next {
        self.full.extend(std::mem::take(&mut self.open).into_values().map(Entry::Here));
        let mut size = 0;
        while let Some(Entry::Here(waiting)) = self.full.front() {
            size += waiting.parcel.body.len();
            if !self.in_flight.is_empty() && size > REPORT_BYTES {
                break;
            }
            let Some(Entry::Here(waiting)) = self.full.pop_front() else { break };
            let lease = waiting.parcel.piece.lease;
            *self.travelling.entry(lease).or_default() += waiting.parcel.count();
            self.in_flight.push(waiting);
        }
        if !self.in_flight.is_empty() {
            let parcels = self.in_flight.iter().map(|waiting| Arc::clone(&waiting.parcel));
            return Next::Parcels(parcels.collect());
        }
        match self.full.pop_front() {
            Some(Entry::Away(stretch)) => {
                self.reading = true;
                Next::Away(stretch)
            }
            Some(Entry::Here(_)) | None => Next::Nothing,
        }
    }

    /// Puts what was read from disk first in turn, and what was not read of its stretch behind it.
    fn bring_back(&mut self, rest: Stretch, read: Vec<(u64, Place, Parcel)>) {
        self.reading = false;
        if rest.records > 0 {
            self.full.push_front(Entry::Away(rest));
        }
        for (number, place, parcel) in read.into_iter().rev() {
            let lease = parcel.piece.lease;
            if self.discarded.get(&lease).is_some_and(|below| number < *below) {
                self.free(Some(place));
                continue;
            }
            let (size, place) = (parcel.size(), Some(place));
            self.bytes += size;
            let (parcel, since) = (Arc::new(parcel), clock::now());
            self.full.push_front(Entry::Here(Waiting { number, parcel, since, size, place }));
        }
        self.forget_discarded();
    }

    /// Leaves on disk what cannot be read now.
    fn put_back(&mut self, stretch: Stretch) {
        self.reading = false;
        self.full.push_front(Entry::Away(stretch));
    }

    /// Gives up what cannot be read. It stays on disk, for the next agent, which delivers what is
    /// good of it.
    fn lose(&mut self, stretch: &Stretch) {
        self.reading = false;
        let wanted = stretch.counts.iter().filter(|(lease, _)| !self.discarded.contains_key(lease));
        for (lease, count) in wanted {
            subtract(&mut self.unsettled, *lease, *count);
        }
        self.forget_discarded();
    }

    fn discard(&mut self, lease: LeaseId) {
        let is_lost = |waiting: &Waiting| waiting.parcel.piece.lease == lease;
        let open = self.open.extract_if(.., |_, waiting| is_lost(waiting));
        let mut lost: Vec<Waiting> = open.map(|(_, waiting)| waiting).collect();
        for entry in std::mem::take(&mut self.full) {
            match entry {
                Entry::Here(waiting) if is_lost(&waiting) => lost.push(waiting),
                Entry::Away(mut stretch) => {
                    stretch.counts.remove(&lease);
                    self.full.push_back(Entry::Away(stretch));
                }
                Entry::Here(waiting) => self.full.push_back(Entry::Here(waiting)),
            }
        }
        for waiting in lost {
            self.bytes -= waiting.size;
            self.free(waiting.place);
        }
        self.discarded.insert(lease, self.next);
        self.forget_discarded();
        match self.travelling.get(&lease) {
            Some(travelling) => self.unsettled.insert(lease, *travelling),
            None => self.unsettled.remove(&lease),
        };
    }

    fn forget_discarded(&mut self) {
        let is_away = |entry: &Entry| matches!(entry, Entry::Away(_));
        if !self.reading && !self.full.iter().any(is_away) {
            self.discarded.clear();
        }
    }

    fn free(&mut self, place: Option<Place>) {
        if let Some(place) = place {
            *self.freed.entry(place.segment).or_default() += 1;
        }
    }

    fn due(&mut self, is_due: impl Fn(&Waiting) -> bool) -> Vec<(u64, Arc<Parcel>)> {
        let due = self.open.extract_if(.., |_, waiting| is_due(waiting));
        self.full.extend(due.map(|(_, waiting)| Entry::Here(waiting)));
        let waiting = self.full.iter().filter_map(|entry| match entry {
            Entry::Here(waiting) => Some(waiting),
            Entry::Away(_) => None,
        });
        let all = self.in_flight.iter().chain(waiting);
        let due = all.filter(|waiting| waiting.place.is_none() && is_due(waiting));
        due.map(|waiting| (waiting.number, Arc::clone(&waiting.parcel))).collect()
    }

    fn kept(&mut self, mut places: BTreeMap<u64, Place>) {
        let waiting = self.full.iter_mut().filter_map(|entry| match entry {
            Entry::Here(waiting) => Some(waiting),
            Entry::Away(_) => None,
        });
        for waiting in self.in_flight.iter_mut().chain(waiting) {
            if let Some(place) = places.remove(&waiting.number) {
                waiting.place = Some(place);
            }
        }
        // The others were settled while they were written.
        for place in places.into_values() {
            self.free(Some(place));
        }
    }

    /// Lets go of the parcels that are on disk and wait their turn.
    fn move_out(&mut self) {
        for entry in std::mem::take(&mut self.full) {
            match entry {
                Entry::Here(Waiting { place: Some(place), parcel, size, .. }) => {
                    self.bytes -= size;
                    self.away(place, &parcel);
                }
                other => self.full.push_back(other),
            }
        }
    }

    fn away(&mut self, place: Place, parcel: &Parcel) {
        let (lease, count) = (parcel.piece.lease, parcel.count());
        match self.full.back_mut() {
            Some(Entry::Away(last)) if (last.segment, last.to) == (place.segment, place.from) => {
                last.to = place.to;
                last.records += 1;
                *last.counts.entry(lease).or_default() += count;
            }
            _ => {
                let Place { segment, from, to } = place;
                let counts = BTreeMap::from([(lease, count)]);
                self.full.push_back(Entry::Away(Stretch { segment, from, to, records: 1, counts }));
            }
        }
    }
}

/// Takes `count` off what is counted of a lease; nothing left is not counted.
fn subtract(counts: &mut BTreeMap<LeaseId, usize>, lease: LeaseId, count: usize) {
    if let Some(left) = counts.get_mut(&lease) {
        *left = left.saturating_sub(count);
        if *left == 0 {
            counts.remove(&lease);
        }
    }
}

#[cfg(test)]
mod tests;
