//! The threads of a run, and the one that waits for them.
//!
//! In comes a plan; out come the report and the tally of all threads together. The one that waits
//! shows how far they are, on a terminal only, and reads what the target costs where measuring
//! begins and where it ends.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::load;
use super::options::{Pace, Plan};
use super::progress::Progress;
use super::report::Report;
use super::shared::{Measured, Shared};
use super::tally::Tally;
use super::target::Reading;

/// Files beside the connections: the standard streams, an epoll and a timer per thread, /proc.
const OTHER_FILES: u64 = 64;

/// How often the one who waits looks around.
const GLANCE: Duration = Duration::from_millis(50);

/// Carries a plan out.
pub(super) fn measure(plan: &Plan) -> Result<(Report, Tally), String> {
    raise_file_limit(plan.connections as u64 + OTHER_FILES)?;
    if let Some(pid) = plan.pid {
        Reading::take(pid)?;
    }
    let shared = Shared::new(plan.warmup);
    let progress = Progress::new(plan);
    let watched = thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.threads)
            .map(|index| {
                let shared = &shared;
                scope.spawn(move || {
                    let measured = load::run(plan, index, shared);
                    shared.done.fetch_add(1, Ordering::Release);
                    measured
                })
            })
            .collect();
        let readings = watch(plan, &shared, &progress);
        let measured: Result<Vec<Measured>, String> = threads
            .into_iter()
            .map(|thread| match thread.join() {
                Ok(measured) => measured.map_err(|error| format!("a load thread: {error}")),
                Err(_) => Err("a load thread panicked".to_owned()),
            })
            .collect();
        measured.and_then(|measured| Ok((measured, readings?)))
    });
    drop(progress);
    let (measured, readings) = watched?;
    let mut tally = Tally::new(plan.has_course);
    for part in &measured {
        tally.merge(&part.tally);
    }
    let last = measured.iter().map(|part| part.ended).max().unwrap_or(shared.begin);
    // Slow answers that an open loop waits for at its end are not part of its time.
    let ended = plan.duration.filter(|_| plan.pace != Pace::Idle).map(|d| shared.begin + d);
    let ended = ended.map_or(last, |end| end.min(last));
    let seconds = ended.saturating_duration_since(shared.begin).as_secs_f64();
    let target = readings.zip(plan.pid);
    let target = target.map(|((before, after), pid)| after.since(&before, pid, tally.requests));
    Ok((Report::new(plan, &tally, seconds, target), tally))
}

/// Waits for the threads, shows how far they are, and reads the target before and after.
fn watch(
    plan: &Plan,
    shared: &Shared,
    progress: &Progress,
) -> Result<Option<(Reading, Reading)>, String> {
    let read = || plan.pid.map(Reading::take).transpose();
    let is_done = || shared.done.load(Ordering::Acquire) == plan.threads;
    let wait = |until: Option<Instant>, is_over: &dyn Fn() -> bool| {
        while !is_over() && !is_done() {
            let left = until.map_or(GLANCE, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return;
            }
            thread::park_timeout(left.min(GLANCE));
            progress.show(plan, shared);
        }
    };
    wait(Some(shared.begin), &|| false);
    let end = if plan.pace == Pace::Idle {
        wait(None, &|| shared.settled.load(Ordering::Acquire) == plan.threads);
        plan.duration.map(|duration| Instant::now() + duration)
    } else {
        plan.duration.map(|duration| shared.begin + duration)
    };
    let before = read()?;
    wait(end, &|| false);
    let after = read()?;
    shared.is_held.store(true, Ordering::Release);
    wait(None, &|| false);
    Ok(before.zip(after))
}

/// Makes room for `count` open files, as far as that is allowed.
fn raise_file_limit(count: u64) -> Result<(), String> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|error| error.to_string())?;
    if soft >= count {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(|error| error.to_string())?;
    if hard < count {
        return Err(format!(
            "{count} open files are needed and {hard} allowed: lower --connections, or raise the \
             limit (ulimit -Hn)"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_files_than_are_allowed_are_refused_with_a_cure() {
        let error = raise_file_limit(u64::MAX).unwrap_err();
        assert!(error.contains("--connections") && error.contains("ulimit"), "{error}");
    }
}
