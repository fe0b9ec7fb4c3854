//! How many routes the kernel holds, cheaply: from the slab cache of `struct fib_alias`, of which each IPv4 route has
//! one. The cache is the machine's, so differences count, and an exact dump follows.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::Phase;

const CACHE: &str = "ip_fib_alias ";
/// How often progress is told; far longer than RCU takes to free what was deleted.
const TOLD: Duration = Duration::from_secs(5);
const EVERY: Duration = Duration::from_millis(5);
/// For a million routes programmed by the slowest contender on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(600);
/// Objects that lie in per-CPU slabs are counted as used.
const SLACK: u32 = 1000;

/// Objects in use.
pub(crate) fn objects() -> Result<i64> {
    let text = fs::read_to_string("/proc/slabinfo").context("cannot read /proc/slabinfo")?;
    let line = text.lines().find(|line| line.starts_with(CACHE));
    let field = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    field.context("no ip_fib_alias in /proc/slabinfo: the kernel merges slab caches; boot with slab_nomerge")
}

/// Waits until freed objects are gone: RCU takes its time.
pub(crate) fn settle() -> Result<i64> {
    let mut before = objects()?;
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(150));
        let now = objects()?;
        if before.abs_diff(now) < 20 {
            return Ok(now);
        }
        before = now;
    }
    Ok(before)
}

/// When a change of many routes was seen in the FIB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// From `began` to the first 0.5 %.
    pub(crate) first: Duration,
    /// From `began` to 99.5 %.
    pub(crate) last: Duration,
}

/// Watches `count` routes come or go; gives up when `failed` is set. `is_done` counts them one by one, which takes the time
/// of whom is measured: asked only where the cheap count stands still.
pub(crate) fn watch(
    what: &str,
    phase: Phase,
    (base, count): (i64, u32),
    began: Instant,
    failed: &AtomicBool,
    is_done: impl Fn() -> Result<bool>,
) -> Result<Seen> {
    let slack = i64::from((count / 200).max(SLACK.min(count / 10)));
    let mut first = None;
    let (mut told, mut before) = (began, 0);
    let progress = || {
        let change = objects()? - base;
        anyhow::Ok(if phase == Phase::Insert { change } else { -change })
    };
    let all = i64::from(count) - slack;
    loop {
        let done = progress()?;
        let elapsed = began.elapsed();
        if done > slack {
            first.get_or_insert(elapsed);
        }
        if done >= all {
            return Ok(Seen { first: first.unwrap_or(elapsed), last: elapsed });
        }
        ensure!(!failed.load(Ordering::Relaxed), "{what} failed");
        ensure!(!backtrail_lab::interrupted(), "interrupted");
        ensure!(elapsed < DEADLINE, "{what}: only {done} of {count} routes after {} s", elapsed.as_secs());
        if told.elapsed() > TOLD {
            eprintln!("  {what}: {done} of {count} routes after {:.0} s", elapsed.as_secs_f64());
            ensure!(
                done.abs_diff(before) > slack.unsigned_abs() || !is_done()? || progress()? != done,
                "{what} is done, and the kernel's count says {done} of {count}: something else on this machine adds or \
                 removes routes; stop it and measure again"
            );
            (told, before) = (Instant::now(), done);
        }
        std::thread::sleep(if first.is_some() { pause(elapsed, done, all) } else { EVERY });
    }
}

/// How long to look away: a look costs milliseconds, and holds the locks of the cache that is counted. The more is left, the
/// rarer they are.
fn pause(elapsed: Duration, done: i64, all: i64) -> Duration {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let left = (all - done).max(0) as f64 / done.max(1) as f64;
    (elapsed.mul_f64(left) / 16).clamp(EVERY, 16 * EVERY)
}
