pub fn start() -> std::io::Result<std::net::SocketAddr> { Err(std::io::Error::other("x")) }
