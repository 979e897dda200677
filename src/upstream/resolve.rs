use std::sync::Arc; use std::net::SocketAddr;
pub struct Addresses(Vec<SocketAddr>);
impl Addresses { pub fn load(&self) -> &Vec<SocketAddr> { &self.0 } }
pub struct Resolver;
impl Resolver { pub fn start() -> std::io::Result<Self> { Ok(Self) }
 pub fn watch(&self, host: &str, port: u16) -> Arc<Addresses> { Arc::new(Addresses(vec![SocketAddr::new(host.parse().unwrap(), port)])) } }
