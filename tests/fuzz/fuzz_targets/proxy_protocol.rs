//! PROXY protocol headers: any bytes, any split, and written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::internals::proxy_protocol;

fuzz_target!(|input: &[u8]| proxy_protocol::check(input));
