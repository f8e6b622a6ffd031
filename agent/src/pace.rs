//! How many elements go to a worker in one frame.

use std::time::Duration;

/// A frame should hold about this much work: enough that its own cost (some tenths of a
/// millisecond) is lost in it, little enough that progress is live and a death costs little.
const FRAME: Duration = Duration::from_millis(20);
/// Elements slower than this go one by one. Workers wait after one ([`crate::frame::kind::WAITS`]).
pub const SLOW: Duration = Duration::from_millis(10);
/// The most elements of a frame.
const MOST: usize = 50_000;
/// The most by which frames grow at a time, because the next elements may be unlike the last.
const GROWTH: usize = 8;

/// The most bytes of input in a frame of several elements.
pub const MOST_BYTES: usize = 1 << 20;

/// What was learned of a job's elements by one lane, for the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Learned {
    size: usize,
    mean: f64,
}

/// Frame sizes for one worker and one lease, learned from how long frames took.
#[derive(Debug)]
pub struct Pace {
    size: usize,
    /// Seconds an element, smoothed.
    mean: Option<f64>,
    target: f64,
    alone: bool,
}

impl Pace {
    /// Starts with one element, or a step below what an earlier lane of the job has come to; but at most
    /// with an eighth of the `n` elements of the lease: these may be unlike the others, and what is in a frame
    /// no other slot can take over. A frame's expected time stays far below `timeout`, because a frame of
    /// several that exceeds it is taken for one that hangs.
    pub fn new(timeout: Option<Duration>, earlier: Option<Learned>, n: usize) -> Self {
        let bound = timeout.map_or(FRAME, |timeout| timeout / 10);
        let size = earlier.map_or(1, |earlier| (earlier.size.min(n) / GROWTH).max(1));
        let mean = earlier.map(|earlier| earlier.mean);
        Self { size, mean, target: bound.min(FRAME).as_secs_f64(), alone: false }
    }

    /// What the next lane of the job is to begin with.
    pub fn learned(&self) -> Option<Learned> {
        self.mean.map(|mean| Learned { size: self.size, mean })
    }

    /// How long an element takes, as far as that is known.
    pub fn element(&self) -> Option<Duration> {
        self.mean.map(Duration::from_secs_f64)
    }

    /// How many elements to send next.
    pub fn size(&self) -> usize {
        if self.alone { 1 } else { self.size }
    }

    /// Learns from a frame of `count` elements that took `time`.
    pub fn observe(&mut self, count: usize, time: Duration) {
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let latest = time.as_secs_f64() / count.max(1) as f64;
        // A slower frame is believed at once, a faster one by half.
        let mean = self.mean.map_or(latest, |mean| latest.max(f64::midpoint(mean, latest)));
        self.mean = Some(mean);
        self.size = if mean > SLOW.as_secs_f64() {
            1
        } else {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "positive, and what is too large is cut by the clamp"
            )]
            let fitting = (self.target / mean.max(1e-9)) as usize;
            fitting.clamp(1, (count * GROWTH).min(MOST))
        };
    }

    /// Begins anew with one element: the last one was slow, and those behind it may be.
    pub fn begin_again(&mut self) {
        self.size = 1;
    }

    /// From now on elements go one by one, so that what they print can be told apart.
    pub fn go_alone(&mut self) {
        self.alone = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    #[test]
    fn quick_elements_travel_in_growing_frames_up_to_the_target() {
        let mut pace = Pace::new(None, None, 1);
        let mut sizes = vec![pace.size()];
        for _ in 0..6 {
            let count = pace.size();
            pace.observe(count, micros(10 * count as u64));
            sizes.push(pace.size());
        }
        assert_eq!(sizes[..4], [1, 8, 64, 512]);
        assert!((1999..=2000).contains(&sizes[6]), "{sizes:?}");
    }

    #[test]
    fn slow_elements_go_one_by_one_at_once() {
        let mut pace = Pace::new(None, None, 1);
        pace.observe(1, micros(10));
        pace.observe(8, micros(8 * 11_000));
        assert_eq!(pace.size(), 1);
    }

    #[test]
    fn a_short_timeout_keeps_frames_short() {
        let mut pace = Pace::new(Some(Duration::from_millis(10)), None, 1);
        for _ in 0..5 {
            let count = pace.size();
            pace.observe(count, micros(100 * count as u64));
        }
        assert!((9..=10).contains(&pace.size()), "{}", pace.size());
    }

    #[test]
    fn the_next_lane_begins_a_step_below() {
        let mut pace = Pace::new(None, None, 1);
        assert_eq!(pace.learned(), None);
        for _ in 0..6 {
            let count = pace.size();
            pace.observe(count, micros(10 * count as u64));
        }
        assert_eq!(Pace::new(None, pace.learned(), 80).size(), 10, "most can be taken over");
        let mut next = Pace::new(None, pace.learned(), 1_000_000);
        assert_eq!((next.size(), next.element()), (pace.size() / GROWTH, pace.element()));
        let count = next.size();
        next.observe(count, micros(10 * count as u64));
        assert!((1990..=2000).contains(&next.size()), "{}", next.size());
        // What was learned binds nobody.
        next.observe(1, micros(11_000));
        assert_eq!(Pace::new(None, next.learned(), 1_000_000).size(), 1);
    }

    #[test]
    fn after_a_slow_one_among_many_the_next_goes_alone_and_frames_grow_again() {
        let mut pace = Pace::new(None, None, 1);
        for _ in 0..6 {
            let count = pace.size();
            pace.observe(count, micros(10 * count as u64));
        }
        pace.observe(1000, micros(1000 * 10 + 100_000));
        pace.begin_again();
        assert_eq!(pace.size(), 1);
        pace.observe(1, micros(10));
        assert_eq!(pace.size(), GROWTH);
    }

    #[test]
    fn printing_elements_go_alone() {
        let mut pace = Pace::new(None, None, 1);
        pace.observe(1, micros(1));
        pace.go_alone();
        assert_eq!(pace.size(), 1);
    }
}
