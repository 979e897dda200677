//! What the process occupies and what it may: the kernel's figures.
//!
//! In: `/proc/self` and the control groups' files. Out: [`Usage`]. Both versions of control groups
//! count, also mounted side by side, and of nested groups the tightest. A file that is missing or
//! odd means "not known" or "no limit", never an error: these figures are a safety net.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};

/// What the kernel says about the process's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// In physical memory now, shared pages included.
    pub rss_bytes: u64,
    /// The lowest limit of the process's control group and of those around it.
    pub cgroup_limit: Option<u64>,
    /// What the group with that limit holds, page cache and kernel memory included; without a limit
    /// the process's own group.
    pub cgroup_usage: Option<u64>,
    /// RLIMIT_AS: addresses, whether or not there is memory behind them.
    pub address_limit: Option<u64>,
}

impl Usage {
    /// Looks everything up. A caller that asks often keeps a [`Probe`].
    pub fn read() -> Self {
        Probe::new().read()
    }

    /// The tightest of the limits.
    pub fn limit(&self) -> Option<u64> {
        self.cgroup_limit.into_iter().chain(self.address_limit).min()
    }
}

/// Knows which files to read: those do not change while a process stays in its control group.
#[derive(Debug)]
pub(crate) struct Probe {
    root: PathBuf,
    groups: Vec<Group>,
}

/// A control group that may hold a limit.
#[derive(Debug)]
struct Group {
    limit: PathBuf,
    usage: PathBuf,
}

/// A v1 group without a limit says the largest multiple of a page below 2^63.
const UNLIMITED_FROM: u64 = 1 << 60;

/// A file that says more is not read to its end. A machine with a thousand containers has a
/// mountinfo of this order.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

impl Default for Probe {
    fn default() -> Self {
        Self::new()
    }
}

impl Probe {
    pub(crate) fn new() -> Self {
        Self::within(Path::new("/"))
    }

    /// As [`Probe::new`], with another directory in place of `/`, for tests.
    pub(crate) fn within(root: &Path) -> Self {
        let groups = groups(root).unwrap_or_default();
        Self { root: root.to_owned(), groups }
    }

    /// A few short files: tens of microseconds.
    pub(crate) fn read(&self) -> Usage {
        let (cgroup_limit, cgroup_usage) = self.cgroup();
        Usage {
            rss_bytes: rss_bytes(&self.root).unwrap_or(0),
            cgroup_limit,
            cgroup_usage,
            address_limit: address_limit(),
        }
    }

    fn cgroup(&self) -> (Option<u64>, Option<u64>) {
        let limits = self.groups.iter().filter_map(|group| {
            let limit = number(&group.limit)?;
            (limit < UNLIMITED_FROM).then_some((limit, group))
        });
        match limits.min_by_key(|(limit, _)| *limit) {
            Some((limit, group)) => (Some(limit), number(&group.usage)),
            // The root group of a machine has no figure, so that another one's is taken.
            None => (None, self.groups.iter().find_map(|group| number(&group.usage))),
        }
    }
}

/// RLIMIT_AS, where it is set.
pub(crate) fn address_limit() -> Option<u64> {
    let (soft, _) = getrlimit(Resource::RLIMIT_AS).ok()?;
    (soft != RLIM_INFINITY).then_some(soft)
}

fn rss_bytes(root: &Path) -> Option<u64> {
    let text = read(&root.join("proc/self/statm"))?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    let page_bytes = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
    Some(pages.saturating_mul(page_bytes.cast_unsigned()))
}

/// The process's memory groups, its own first, then those around it, of each hierarchy.
fn groups(root: &Path) -> Option<Vec<Group>> {
    let memberships = read(&root.join("proc/self/cgroup"))?;
    let mounts = read(&root.join("proc/self/mountinfo"))?;
    let mounts: Vec<_> = mounts.lines().filter_map(Mount::parse).collect();
    let mut groups = Vec::new();
    for membership in memberships.lines() {
        // "hierarchy:controllers:path"; version 2 is hierarchy 0 without controllers.
        let mut parts = membership.splitn(3, ':');
        let (Some(hierarchy), Some(controllers), Some(path)) =
            (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let version = match controllers {
            "" if hierarchy == "0" => Version::Two,
            _ if controllers.split(',').any(|name| name == "memory") => Version::One,
            _ => continue,
        };
        let path = Path::new(path);
        let is_version = |mount: &&Mount| mount.version == version;
        let shows = |mount: &&Mount| is_version(mount) && path.starts_with(&mount.top);
        if let Some(mount) = mounts.iter().find(shows).or(mounts.iter().find(is_version)) {
            groups.extend(mount.groups(root, path));
        }
    }
    Some(groups)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Where a hierarchy of control groups can be seen.
#[derive(Debug)]
struct Mount {
    version: Version,
    /// The group that is seen at `point`.
    top: PathBuf,
    point: PathBuf,
}

impl Mount {
    /// `36 35 98:0 /top /point rw,noatime shared:1 - cgroup2 source rw,options` (proc(5)).
    fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (top, point) = (unescape(before.next()?), unescape(before.next()?));
        let mut after = after.split(' ');
        let version = match after.next()? {
            "cgroup2" => Version::Two,
            "cgroup" if after.nth(1)?.split(',').any(|option| option == "memory") => Version::One,
            _ => return None,
        };
        Some(Self { version, top, point })
    }

    /// The group at `path` and all around it that can be seen here.
    fn groups(&self, root: &Path, path: &Path) -> Vec<Group> {
        let point = root.join(self.point.strip_prefix("/").unwrap_or(&self.point));
        // A container sees its own group at the mount point, whatever the path says: it may be
        // the host's path, or "/../.." as seen from a namespace below.
        let is_plain = |path: &Path| path.components().all(|part| part != Component::ParentDir);
        let below = path.strip_prefix(&self.top).ok().filter(|path| is_plain(path));
        let below = below.unwrap_or_else(|| Path::new(""));
        let (limit, usage) = match self.version {
            Version::One => ("memory.limit_in_bytes", "memory.usage_in_bytes"),
            Version::Two => ("memory.max", "memory.current"),
        };
        below
            .ancestors()
            .map(|group| point.join(group))
            .map(|group| Group { limit: group.join(limit), usage: group.join(usage) })
            .collect()
    }
}

/// Spaces and backslashes of paths are `\ooo` in mountinfo.
fn unescape(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| *first == b'\\').and_then(octal);
        plain.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(OsStr::from_bytes(&plain))
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok()
}

/// A file with one number. "max" is none, and so is anything else.
fn number(path: &Path) -> Option<u64> {
    read(path)?.trim().parse().ok()
}

fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    // A path in it need not be UTF-8, and is then not found.
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A directory in place of `/`, which goes away with the test.
    struct Root(PathBuf);

    impl Root {
        fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("ringway-usage-{}-{count}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn with(self, path: &str, text: &str) -> Self {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            self
        }

        fn cgroup(&self) -> (Option<u64>, Option<u64>) {
            Probe::within(&self.0).cgroup()
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const V2: &str =
        "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate";
    const V1: &str = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory";

    #[test]
    fn of_nested_groups_the_tightest_counts() {
        let root = Root::new()
            .with("proc/self/cgroup", "0::/a.slice/b.service\n")
            .with("proc/self/mountinfo", V2)
            .with("sys/fs/cgroup/a.slice/b.service/memory.max", "900\n")
            .with("sys/fs/cgroup/a.slice/b.service/memory.current", "100\n")
            .with("sys/fs/cgroup/a.slice/memory.max", "700\n")
            .with("sys/fs/cgroup/a.slice/memory.current", "650\n");
        assert_eq!(root.cgroup(), (Some(700), Some(650)));
        let root = root.with("sys/fs/cgroup/a.slice/memory.max", "max\n");
        assert_eq!(root.cgroup(), (Some(900), Some(100)));
        let root = root.with("sys/fs/cgroup/a.slice/b.service/memory.max", "max\n");
        assert_eq!(root.cgroup(), (None, Some(100)));
    }

    #[test]
    fn a_container_sees_its_group_at_the_mount_point() {
        // A namespace of its own; the host's path below a bind mount; a path above the namespace.
        let bind = V2.replace(" / /sys", " /docker/abc /sys");
        for (membership, mounts) in
            [("0::/", V2), ("0::/docker/abc", &bind), ("0::/../../other", V2), ("0::/gone", &bind)]
        {
            let root = Root::new()
                .with("proc/self/cgroup", membership)
                .with("proc/self/mountinfo", mounts)
                .with("sys/fs/cgroup/memory.max", "134217728")
                .with("sys/fs/cgroup/memory.current", "4096");
            assert_eq!(root.cgroup(), (Some(134_217_728), Some(4096)), "{membership}");
        }
    }

    #[test]
    fn version_one_has_its_own_files_and_a_huge_number_for_none() {
        let root = Root::new()
            .with("proc/self/cgroup", "5:cpu:/x\n4:memory:/a b/c\n1:name=systemd:/\n0::/\n")
            .with("proc/self/mountinfo", &format!("{}\n{V1}\n", V2.replace("/cgroup rw", "/u rw")))
            .with("sys/fs/cgroup/memory/a b/c/memory.limit_in_bytes", "9223372036854771712\n")
            .with("sys/fs/cgroup/memory/a b/c/memory.usage_in_bytes", "5\n")
            .with("sys/fs/cgroup/memory/a b/memory.limit_in_bytes", "800\n")
            .with("sys/fs/cgroup/memory/a b/memory.usage_in_bytes", "6\n")
            .with("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(root.cgroup(), (Some(800), Some(6)));
        let root = root.with("sys/fs/cgroup/memory/a b/memory.limit_in_bytes", "-1");
        assert_eq!(root.cgroup(), (None, Some(5)));
    }

    #[test]
    fn both_versions_side_by_side_are_both_asked() {
        let root = Root::new()
            .with("proc/self/cgroup", "4:blkio,memory:/\n0::/\n")
            .with("proc/self/mountinfo", &format!("{V1}\n{}", V2.replace("/cgroup rw", "/u rw")))
            .with("sys/fs/cgroup/memory/memory.limit_in_bytes", "800")
            .with("sys/fs/u/memory.max", "700");
        assert_eq!(root.cgroup(), (Some(700), None));
    }

    #[test]
    fn odd_files_are_no_limit_and_no_panic() {
        assert_eq!(Root::new().cgroup(), (None, None));
        for odd in ["", "\n\n::::\n0:\n", "0::/\n0::/a", "\u{0}\\0\\09\\999", " - ", "4:memory:"] {
            for number in ["", "max", "-1", "1e9", "99999999999999999999999"] {
                let root = Root::new()
                    .with("proc/self/cgroup", "4:memory:\n0::/")
                    .with("proc/self/mountinfo", odd)
                    .with("proc/self/statm", number)
                    .with("sys/fs/cgroup/memory/memory.limit_in_bytes", number);
                assert_eq!(root.cgroup(), (None, None), "{odd:?} {number:?}");
                assert_eq!(Probe::within(&root.0).read().rss_bytes, 0);
                let root = root.with("proc/self/mountinfo", V1).with("proc/self/cgroup", odd);
                assert_eq!(root.cgroup(), (None, None), "{odd:?} {number:?}");
            }
        }
    }

    #[test]
    fn escaped_paths_are_read() {
        assert_eq!(unescape("/a\\040b\\134c"), Path::new("/a b\\c"));
        assert_eq!(unescape("/a\\04"), Path::new("/a\\04"));
        assert_eq!(unescape("\\999\\"), Path::new("\\999\\"));
    }

    #[test]
    fn this_process_occupies_something() {
        let usage = Usage::read();
        assert!((64 * 1024..1 << 40).contains(&usage.rss_bytes), "{usage:?}");
        let limits = Usage { cgroup_limit: Some(9), address_limit: Some(7), ..Usage::default() };
        assert_eq!(limits.limit(), Some(7));
        assert_eq!(Usage::default().limit(), None);
    }
}
