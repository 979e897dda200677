//! `cargo bench --bench compare`: ringway beside other proxies, in one run.
//!
//! In: flags (`-- --help` lists them). Out: a table on the screen, and JSON, Markdown and SVG in
//! `target/compare`. The work is in `harness`, which `tests/compare.rs` runs as well.

#[path = "../floor/relay.rs"]
mod floor;
// Cargo sets cfg(test) for benches without running tests: `tests/crowds` does that.
#[allow(unused_imports, dead_code, reason = "the unit tests are compiled and not run here")]
mod harness;

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use socket2::{Domain, Socket, Type};

use harness::Options;

fn main() -> ExitCode {
    let mut options = Options::parse();
    let outcome = if let Some([listen, origin]) = options.run_floor.as_deref() {
        run_floor(*listen, *origin)
    } else {
        options.floor = std::env::current_exe().ok();
        harness::run(&options).map(|_| ())
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The floor is a peer like the others, and so has to be a process of its own.
fn run_floor(listen: SocketAddr, origin: SocketAddr) -> Result<(), String> {
    // The standard library's backlog of 128 drops connections where a thousand come at once.
    let listener = Socket::new(Domain::for_address(listen), Type::STREAM, None)
        .and_then(|socket| {
            socket.set_reuse_address(true)?;
            socket.bind(&listen.into())?;
            socket.listen(4096)?;
            Ok(socket.into())
        })
        .map_err(|error: std::io::Error| error.to_string())?;
    floor::serve(listener, origin).map_err(|error| error.to_string())
}
