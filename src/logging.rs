pub fn start(_: &crate::config::LogConfig) -> Result<(), std::io::Error> { tracing_subscriber::fmt().init(); Ok(()) }
