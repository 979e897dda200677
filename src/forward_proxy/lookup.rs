//! NameLookup of forward targets to addresses, off the ring threads.
//!
//! In goes whatever name a client asked for; out come its addresses in the order in which they are
//! to be tried (RFC 8305 §4: the families take turns, IPv6 first), or the fault that says why there
//! are none. Answers are cached for their TTL and failures for `dns.negative_ttl`, both in a cache
//! of `dns.cache_entries`; at most [`LOOKUPS_MAX`] questions are open at once. An address needs no
//! question. What an address may be used for is not judged here.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::read_system_conf;
use tokio::runtime;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Semaphore, oneshot};

use crate::config::DnsConfig;
use crate::fault::Fault;

use crate::upstream::resolver::without_asking;

/// Questions open at the name servers at once; further ones wait, and mostly find the answer to
/// the same question in the cache when their turn comes.
const LOOKUPS_MAX: usize = 256;

/// A TTL above this would keep a target that has moved unreachable for too long.
const TTL_MAX: Duration = Duration::from_secs(3600);

/// Addresses of one answer that are looked at.
const ADDRESSES_MAX: usize = 32;

/// The thread that asks; dropping the last handle ends it.
#[derive(Clone, Debug)]
pub(crate) struct NameLookup {
    jobs: UnboundedSender<Job>,
    /// At most so many names are known.
    known: Arc<AtomicUsize>,
    known_max: usize,
}

/// A name with its addresses in the cache.
pub(crate) const NAME_BYTES: u64 = 1024;

#[derive(Debug)]
enum Job {
    Look { name: String, reply: oneshot::Sender<Result<Vec<IpAddr>, Fault>> },
    Forget,
}

impl NameLookup {
    /// Asks the servers of `/etc/resolv.conf`, after `/etc/hosts`.
    pub(crate) fn start(config: &DnsConfig) -> io::Result<Self> {
        let (servers, options) = read_system_conf().unwrap_or_else(|error| {
            tracing::debug!("no name servers: /etc/resolv.conf: {error}");
            (ResolverConfig::default(), ResolverOpts::default())
        });
        Self::start_with(servers, options, config)
    }

    fn start_with(
        servers: ResolverConfig,
        mut options: ResolverOpts,
        config: &DnsConfig,
    ) -> io::Result<Self> {
        options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
        options.cache_size = config.cache_entries as u64;
        options.positive_max_ttl = Some(TTL_MAX);
        options.negative_min_ttl = Some(config.negative_ttl);
        options.negative_max_ttl = Some(config.negative_ttl);
        let limit = config.timeout;
        let (jobs, arrivals) = unbounded_channel();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("names".to_owned()).spawn(move || {
            let provider = TokioRuntimeProvider::default();
            let built = TokioResolver::builder_with_config(servers, provider).with_options(options);
            match built.build() {
                Ok(resolver) => runtime.block_on(serve(Arc::new(resolver), arrivals, limit)),
                Err(error) => tracing::error!("names of targets cannot be resolved: {error}"),
            }
        })?;
        Ok(Self { jobs, known: Arc::default(), known_max: config.cache_entries })
    }

    /// The addresses of `host`, which is an IP address without brackets or a name; never empty.
    pub(crate) async fn look_up(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Fault> {
        if let Some(known) = without_asking(host, port) {
            return Ok(known);
        }
        let (reply, answer) = oneshot::channel();
        let job = Job::Look { name: host.to_owned(), reply };
        self.jobs.send(job).map_err(|_| Fault::Internal)?;
        let addresses = answer.await.map_err(|_| Fault::Internal)??;
        self.known.fetch_add(1, Ordering::Relaxed);
        let addresses: Vec<_> =
            in_turns(&addresses).map(|address| SocketAddr::new(address, port)).collect();
        if addresses.is_empty() { Err(Fault::OriginUnresolved) } else { Ok(addresses) }
    }

    /// Drops what is cached.
    pub(crate) fn forget(&self) {
        self.known.store(0, Ordering::Relaxed);
        let _ = self.jobs.send(Job::Forget);
    }

    /// What the cache takes at most.
    pub(crate) fn cache_bytes(&self) -> u64 {
        let known = self.known.load(Ordering::Relaxed).min(self.known_max);
        known as u64 * NAME_BYTES
    }
}

async fn serve(resolver: Arc<TokioResolver>, mut jobs: UnboundedReceiver<Job>, limit: Duration) {
    let turns = Arc::new(Semaphore::new(LOOKUPS_MAX));
    while let Some(job) = jobs.recv().await {
        match job {
            Job::Forget => resolver.clear_cache(),
            Job::Look { name, reply } => {
                let (resolver, turns) = (resolver.clone(), turns.clone());
                tokio::spawn(async move {
                    let asked = tokio::time::timeout(limit, ask(&resolver, &turns, &name));
                    let answer = asked.await.unwrap_or(Err(Fault::OriginResolveTimeout));
                    // No task waits any more: the client has gone.
                    let _ = reply.send(answer);
                });
            }
        }
    }
}

async fn ask(
    resolver: &TokioResolver,
    turns: &Semaphore,
    name: &str,
) -> Result<Vec<IpAddr>, Fault> {
    let _turn = turns.acquire().await.map_err(|_| Fault::Stopping)?;
    // With its dot a name is complete: no search domain of this machine is a client's business.
    let complete = if name.ends_with('.') { name.to_owned() } else { format!("{name}.") };
    match resolver.lookup_ip(complete.as_str()).await {
        Ok(answer) => Ok(answer.iter().take(ADDRESSES_MAX).collect()),
        Err(error) => {
            tracing::debug!(name, %error, "not resolved");
            Err(Fault::OriginUnresolved)
        }
    }
}

/// The families in turns, IPv6 first, each in the order of the answer; nothing twice.
fn in_turns(answer: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    let family = |is_v6: bool| {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in answer.iter().filter(|address| address.is_ipv6() == is_v6) {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        addresses
    };
    let (v6, v4) = (family(true), family(false));
    let length = v6.len().max(v4.len());
    (0..length).flat_map(move |turn| [v6.get(turn).copied(), v4.get(turn).copied()]).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_families_take_turns() {
        let answer = addresses(&["10.0.0.1", "10.0.0.2", "::1", "10.0.0.1", "10.0.0.3"]);
        let ordered: Vec<_> = in_turns(&answer).collect();
        assert_eq!(ordered, addresses(&["::1", "10.0.0.1", "10.0.0.2", "10.0.0.3"]));
        assert_eq!(in_turns(&[]).count(), 0);
    }

    #[test]
    fn addresses_need_no_name_server_and_names_without_one_fail() {
        let config = DnsConfig { timeout: Duration::from_secs(5), ..DnsConfig::default() };
        let names =
            NameLookup::start_with(ResolverConfig::default(), ResolverOpts::default(), &config)
                .unwrap();
        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let known = names.look_up("::1", 443).await;
            assert_eq!(known, Ok(vec!["[::1]:443".parse().unwrap()]));
            assert_eq!(names.look_up("a.test", 80).await, Err(Fault::OriginUnresolved));
        });
    }
}
