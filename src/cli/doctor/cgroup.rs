//! What the control groups leave of processors and processes; memory is `memory::usage`'s part.
//!
//! In: the groups of this process, of version 2 or 1. Out: the tightest limit of its own group and
//! of those around it. A hierarchy that is mounted elsewhere than below `/sys/fs/cgroup` has none.

use std::path::{Component, Path};

use super::root::Root;

/// What the groups say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Groups {
    /// Processors' worth of time, such as 1.5.
    pub(super) cpus: Option<f64>,
    /// Percent of the periods in which the time was used up.
    pub(super) throttled_percent: Option<u64>,
    /// Threads count.
    pub(super) pids: Option<u64>,
}

impl Groups {
    pub(super) fn read(root: &Root) -> Self {
        let memberships = root.text("proc/self/cgroup").unwrap_or_default();
        let mut groups = Self::default();
        for membership in memberships.lines() {
            // "hierarchy:controllers:path"; version 2 is hierarchy 0 without controllers.
            let mut parts = membership.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
            let has = |name| {
                controllers.is_empty()
                    || controllers.split(',').any(|controller| controller == name)
            };
            for folder in folders(root, controllers, path) {
                if has("cpu") {
                    groups.add_cpus(root, &folder);
                }
                if has("pids") {
                    let limit = root.number(&format!("{folder}/pids.max"));
                    groups.pids = groups.pids.into_iter().chain(limit).min();
                }
            }
        }
        groups
    }

    fn add_cpus(&mut self, root: &Root, folder: &str) {
        let text = |name| root.text(&format!("{folder}/{name}")).unwrap_or_default();
        let two = quota(&text("cpu.max"));
        let one = || quota(&(text("cpu.cfs_quota_us") + " " + &text("cpu.cfs_period_us")));
        let Some(cpus) = two.or_else(one) else { return };
        if self.cpus.is_some_and(|tightest| tightest <= cpus) {
            return;
        }
        self.cpus = Some(cpus);
        let statistics = text("cpu.stat");
        let count = |name| -> Option<u64> {
            let value = statistics.lines().find_map(|line| line.strip_prefix(name));
            value?.trim().parse().ok()
        };
        self.throttled_percent = count("nr_throttled ")
            .zip(count("nr_periods ").filter(|periods| *periods > 0))
            .map(|(throttled, periods)| throttled.saturating_mul(100) / periods);
    }
}

/// Quota and period, in microseconds. "max" and -1 are no quota.
fn quota(pair: &str) -> Option<f64> {
    let mut numbers = pair.split_whitespace();
    let quota: u32 = numbers.next()?.parse().ok()?;
    let period: u32 = numbers.next()?.parse().ok()?;
    (period > 0).then(|| f64::from(quota) / f64::from(period))
}

/// The folders of a group and of all around it, as far as they can be seen.
fn folders(root: &Root, controllers: &str, path: &str) -> Vec<String> {
    // Version 2 may be beside version 1; several controllers in one folder have links to it.
    let first = controllers.split(',').next().filter(|name| !name.is_empty());
    let places =
        ["sys/fs/cgroup".to_owned(), format!("sys/fs/cgroup/{}", first.unwrap_or("unified"))];
    let path = Path::new(path.trim_start_matches('/'));
    // A container sees its own group at the mount point, whatever the path says.
    let is_plain = path.components().all(|part| part != Component::ParentDir);
    let groups: Vec<_> = if is_plain { path.ancestors().collect() } else { vec![Path::new("")] };
    let mut folders = Vec::new();
    for place in &places[usize::from(first.is_some())..] {
        for group in &groups {
            let folder = Path::new(place).join(group);
            folders.extend(folder.to_str().filter(|folder| root.has(folder)).map(str::to_owned));
        }
    }
    folders
}
