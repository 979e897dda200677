//! Questions to name servers, and the files that say whom to ask.
//!
//! In: `[dns]`, `/etc/resolv.conf`, `/etc/hosts`, and names. Out: addresses, and until when they
//! hold. Both families are asked at once; when one has answered, the other has 50 ms more (RFC 8305
//! §3), so that a name server that drops questions for AAAA delays nothing. A name in `/etc/hosts`
//! needs no question. The files are looked at again when somebody asks, once a second at most.
//! Nothing here caches.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
    ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, TokioResolver};

use crate::config::{DnsConfig, DnsFamily};
use crate::file_stamp::Stamp;

/// RFC 8305 §3, Resolution Delay.
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// Questions at one server at once; `lookup` sees to it that there are never so many.
const QUESTIONS_MAX: usize = 1024;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Who is asked, as of now.
#[derive(Debug)]
pub(crate) struct NameService {
    files: Files,
    current: Mutex<Current>,
}

/// Where the machine says whom to ask.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) resolv_conf: PathBuf,
    pub(crate) hosts: PathBuf,
}

#[derive(Debug)]
struct Current {
    dns: DnsConfig,
    stamps: [Option<Stamp>; 2],
    looked: Instant,
    asker: Arc<Asker>,
}

/// Asks by one state of the files.
pub(crate) struct Asker {
    /// Counts up with every change.
    pub(crate) number: u64,
    resolver: TokioResolver,
    hosts: Hosts,
    family: DnsFamily,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) valid_until: Instant,
}

/// What DNS says of a service (RFC 2782).
#[derive(Debug)]
pub(crate) struct FoundService {
    pub(crate) records: Vec<ServiceRecord>,
    pub(crate) valid_until: Instant,
}

/// One of its servers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ServiceRecord {
    pub(crate) priority: u16,
    pub(crate) weight: u16,
    /// In lower case, without the last dot.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Default for Files {
    fn default() -> Self {
        Self { resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into() }
    }
}

impl NameService {
    pub(crate) fn new(dns: &DnsConfig, files: Files) -> io::Result<Self> {
        let stamps = files.stamps();
        let asker = Arc::new(Asker::of(dns, &files, 0)?);
        let current = Current { dns: dns.clone(), stamps, looked: Instant::now(), asker };
        Ok(Self { files, current: Mutex::new(current) })
    }

    /// Who is asked from now on.
    pub(crate) fn asker(&self) -> Arc<Asker> {
        let mut current = self.lock();
        if current.looked.elapsed() >= LOOK_EVERY {
            let stamps = self.files.stamps();
            current.looked = Instant::now();
            if stamps != current.stamps {
                current.stamps = stamps;
                self.renew(&mut current);
            }
        }
        current.asker.clone()
    }

    /// Reads the files again, whatever they look like, and asks by `dns` from now on.
    pub(crate) fn reread(&self, dns: &DnsConfig) {
        let mut current = self.lock();
        current.dns = dns.clone();
        current.stamps = self.files.stamps();
        self.renew(&mut current);
    }

    fn renew(&self, current: &mut Current) {
        match Asker::of(&current.dns, &self.files, current.asker.number + 1) {
            Ok(asker) => {
                tracing::info!("reading resolv.conf and hosts anew");
                current.asker = Arc::new(asker);
            }
            Err(error) => tracing::warn!("names are asked as before: {error}"),
        }
    }

    /// A panic elsewhere leaves a state that is still true.
    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files {
    fn stamps(&self) -> [Option<Stamp>; 2] {
        [&self.resolv_conf, &self.hosts].map(|path| Stamp::of(path))
    }
}

impl Asker {
    fn of(dns: &DnsConfig, files: &Files, number: u64) -> io::Result<Self> {
        let (system, mut options) = match fs::read_to_string(&files.resolv_conf) {
            Ok(text) => parse_resolv_conf(without_bad_domains(&text)).map_err(|it| it.to_string()),
            Err(error) => Err(error.to_string()),
        }
        .unwrap_or_else(|error| {
            // `/etc/hosts` and addresses go without name servers, and may be all that is used.
            tracing::debug!("no name servers: {}: {error}", files.resolv_conf.display());
            (ResolverConfig::default(), ResolverOpts::default())
        });
        let (mut domain, mut search, mut servers) = system.into_parts();
        if !dns.servers.is_empty() {
            servers =
                dns.servers.iter().map(|server| server_at(server.ip(), server.port())).collect();
        }
        if !dns.search.is_empty() {
            domain = None;
            search = dns.search.iter().filter_map(|name| Name::from_utf8(name).ok()).collect();
        }
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.max_active_requests = QUESTIONS_MAX;
        let config = ResolverConfig::from_parts(domain, search, servers);
        let provider = TokioRuntimeProvider::default();
        let builder = TokioResolver::builder_with_config(config, provider).with_options(options);
        let resolver = builder.build().map_err(io::Error::other)?;
        let mut hosts = Hosts::default();
        if let Ok(file) = fs::File::open(&files.hosts) {
            hosts.read_hosts_conf(file)?;
        }
        Ok(Self { number, resolver, hosts, family: dns.family })
    }

    /// What `/etc/hosts` says of `name`.
    pub(crate) fn in_hosts(&self, name: &str) -> Option<Vec<IpAddr>> {
        let name = Name::from_utf8(name).ok()?;
        let of = |kind| {
            let found = self.hosts.lookup_static_host(&Query::query(name.clone(), kind));
            found.map(|found| addresses(&found)).unwrap_or_default()
        };
        let found: Vec<IpAddr> = self.kinds().iter().flat_map(|kind| of(*kind)).collect();
        (!found.is_empty()).then_some(found)
    }

    /// Asks. A name without its last dot is looked for in the search domains too. `guard` lives for
    /// as long as a question is open, which may be longer than the wait.
    pub(crate) async fn ask<G>(&self, name: &str, guard: G) -> Result<Found, NetError>
    where
        G: Clone + Send + 'static,
    {
        if let Some(addresses) = self.in_hosts(name) {
            return Ok(Found { addresses, valid_until: Instant::now() + LOOK_EVERY });
        }
        let name = Name::from_utf8(name)?;
        let ask = |kind| {
            let (resolver, name, guard) = (self.resolver.clone(), name.clone(), guard.clone());
            let answer = tokio::spawn(async move {
                let _guard = guard;
                resolver.lookup(name, kind).await
            });
            async { answer.await.unwrap_or_else(|error| Err(error.to_string().into())) }
        };
        let found = match self.kinds() {
            [only] => found(ask(*only).await?),
            kinds => either(ask(kinds[0]), ask(kinds[1])).await?,
        };
        Ok(found)
    }

    /// Asks for the servers of a service. There is none where the only record names the root (RFC
    /// 2782), and nobody can connect to port 0.
    pub(crate) async fn ask_for_service(&self, name: &str) -> Result<FoundService, NetError> {
        let answer = self.resolver.lookup(Name::from_utf8(name)?, RecordType::SRV).await?;
        let record = |data: &RData| match data {
            RData::SRV(srv) if !srv.target.is_root() && srv.port != 0 => {
                let host = srv.target.to_ascii().to_ascii_lowercase();
                let host = host.strip_suffix('.').map(str::to_owned).unwrap_or(host);
                let (priority, weight, port) = (srv.priority, srv.weight, srv.port);
                Some(ServiceRecord { priority, weight, host, port })
            }
            _ => None,
        };
        let records = answer.answers().iter().filter_map(|found| record(&found.data)).collect();
        Ok(FoundService { records, valid_until: answer.valid_until() })
    }

    fn kinds(&self) -> &'static [RecordType] {
        match self.family {
            DnsFamily::Auto | DnsFamily::PreferV4 => &[RecordType::A, RecordType::AAAA],
            DnsFamily::V4 => &[RecordType::A],
            DnsFamily::V6 => &[RecordType::AAAA],
        }
    }
}

impl std::fmt::Debug for Asker {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "asker {}", self.number)
    }
}

/// What two questions for the same name come to. One that has addresses waits for the other only
/// for the resolution delay.
async fn either(
    first: impl Future<Output = Result<Lookup, NetError>>,
    second: impl Future<Output = Result<Lookup, NetError>>,
) -> Result<Found, NetError> {
    let (mut first, mut second) = (std::pin::pin!(first), std::pin::pin!(second));
    let (one, is_first) = tokio::select! {
        biased;
        answer = &mut first => (answer, true),
        answer = &mut second => (answer, false),
    };
    let other = async { if is_first { second.await } else { first.await } };
    match one.map(found) {
        Ok(mut one) if !one.addresses.is_empty() => {
            if let Ok(Ok(other)) = tokio::time::timeout(RESOLUTION_DELAY, other).await {
                let other = found(other);
                if !other.addresses.is_empty() {
                    one.valid_until = one.valid_until.min(other.valid_until);
                    one.addresses.extend(other.addresses);
                }
            }
            Ok(one)
        }
        Ok(empty) => other.await.map(found).or(Ok(empty)),
        Err(failed) => other.await.map(found).map_err(|_| failed),
    }
}

fn found(answer: Lookup) -> Found {
    Found { addresses: addresses(&answer), valid_until: answer.valid_until() }
}

fn addresses(answer: &Lookup) -> Vec<IpAddr> {
    answer.answers().iter().filter_map(|record| record.data.ip_addr()).collect()
}

fn server_at(address: IpAddr, port: u16) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = port;
        connection
    });
    NameServerConfig::new(address, true, connections.to_vec())
}

/// `resolv.conf` without search domains that are no names: one of them would spoil the file.
fn without_bad_domains(text: &str) -> String {
    let is_name = |word: &&str| {
        let is = *word == "--" || Name::from_str_relaxed(word).is_ok();
        if !is {
            tracing::warn!(domain = word, "a search domain in resolv.conf is no name: passed over");
        }
        is
    };
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        match words.next() {
            Some(key @ ("search" | "domain")) => {
                let kept: Vec<&str> = words.filter(is_name).collect();
                if kept.is_empty() { String::new() } else { format!("{key} {}\n", kept.join(" ")) }
            }
            _ => format!("{line}\n"),
        }
    };
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_domain_that_is_no_name_leaves_the_others() {
        let text = "# a\nsearch a.test b..test -- c.test\ndomain ..\nnameserver 127.0.0.1\n";
        let left = without_bad_domains(text);
        assert_eq!(left, "# a\nsearch a.test -- c.test\nnameserver 127.0.0.1\n");
        let (config, _) = parse_resolv_conf(left).unwrap();
        assert_eq!(config.search().len(), 2);
        assert_eq!(config.name_servers().len(), 1);
    }

    #[test]
    fn the_files_are_read_again_when_they_change() {
        let folder = std::env::temp_dir().join(format!("ringway-names-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let files = Files { resolv_conf: folder.join("resolv"), hosts: folder.join("hosts") };
        fs::write(&files.resolv_conf, "nameserver 127.0.0.1\n").unwrap();
        fs::write(&files.hosts, "10.0.0.1 app.test\n::5 app.test\n").unwrap();
        let dns = DnsConfig::default();
        let names = NameService::new(&dns, files.clone()).unwrap();
        let found = |names: &NameService| names.asker().in_hosts("APP.test.").unwrap_or_default();
        let texts = |list: &[&str]| -> Vec<IpAddr> {
            list.iter().map(|text| text.parse().unwrap()).collect()
        };
        assert_eq!(found(&names), texts(&["10.0.0.1", "::5"]));
        fs::write(&files.hosts, "10.0.0.22 app.test\n").unwrap();
        let overdue = Instant::now().checked_sub(2 * LOOK_EVERY).unwrap();
        names.lock().looked = overdue;
        assert_eq!(found(&names), texts(&["10.0.0.22"]));
        assert_eq!(names.asker().number, 1);
        // SIGHUP reads them whatever they look like, and by the configuration that came with it.
        names.reread(&DnsConfig { family: DnsFamily::V6, ..dns });
        assert_eq!((found(&names), names.asker().number), (Vec::new(), 2));
        fs::remove_dir_all(folder).unwrap();
    }
}
