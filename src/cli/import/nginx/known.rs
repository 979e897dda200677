//! What nginx's directives are to ringway.
//!
//! In goes a directive's name; out comes whether it is taken, not needed, or left out, and then
//! why and what to do. How a directive is taken is not known here.

pub(super) enum Verdict {
    /// By some other file of this folder, which says itself what of it is not.
    Taken,
    Unneeded(&'static str),
    Untaken(&'static str, &'static str),
}

const TAKEN: &[&str] = &[
    "http",
    "server",
    "location",
    "upstream",
    "listen",
    "server_name",
    "proxy_pass",
    "grpc_pass",
    "proxy_set_header",
    "grpc_set_header",
    "add_header",
    "proxy_hide_header",
    "grpc_hide_header",
    "proxy_connect_timeout",
    "proxy_read_timeout",
    "proxy_send_timeout",
    "grpc_connect_timeout",
    "grpc_read_timeout",
    "grpc_send_timeout",
    "client_max_body_size",
    "client_header_timeout",
    "client_body_timeout",
    "keepalive_timeout",
    "send_timeout",
    "return",
    "rewrite",
    "ssl_certificate",
    "ssl_certificate_key",
    "ssl_protocols",
    "ssl_client_certificate",
    "ssl_verify_client",
    "ssl_crl",
    "auth_basic",
    "auth_basic_user_file",
    "allow",
    "deny",
    "limit_req",
    "limit_req_zone",
    "limit_conn",
    "limit_conn_zone",
    "resolver",
    "worker_processes",
    "access_log",
    "error_log",
    "set_real_ip_from",
    "real_ip_header",
    "underscores_in_headers",
    "proxy_next_upstream",
    "proxy_next_upstream_tries",
    "proxy_ssl_trusted_certificate",
    "proxy_ssl_name",
    "proxy_ssl_certificate",
    "proxy_ssl_certificate_key",
    "proxy_ssl_verify",
    "proxy_ssl_server_name",
    "if",
    "try_files",
    "internal",
    "auth_request",
    "auth_request_set",
    "satisfy",
    "proxy_redirect",
    "limit_except",
    "ssl",
    "fastcgi_pass",
    "uwsgi_pass",
    "scgi_pass",
    "memcached_pass",
];

const UNNEEDED: &[(&[&str], &str)] = &[
    (
        &[
            "worker_connections",
            "multi_accept",
            "use",
            "events",
            "worker_rlimit_nofile",
            "worker_cpu_affinity",
            "worker_priority",
            "worker_shutdown_timeout",
            "thread_pool",
            "accept_mutex",
            "pcre_jit",
            "timer_resolution",
            "connection_pool_size",
            "request_pool_size",
            "output_buffers",
            "reset_timedout_connection",
        ],
        "limits.clients bounds clients, and the rest follows from the machine",
    ),
    (
        &[
            "pid",
            "daemon",
            "master_process",
            "load_module",
            "lock_file",
            "working_directory",
            "env",
            "worker_aio_requests",
            "debug_points",
        ],
        "ringway stays in the foreground, for a service manager",
    ),
    (
        &[
            "sendfile",
            "sendfile_max_chunk",
            "tcp_nopush",
            "tcp_nodelay",
            "aio",
            "directio",
            "open_file_cache",
            "open_file_cache_valid",
            "open_file_cache_min_uses",
            "open_file_cache_errors",
            "types",
            "default_type",
            "types_hash_max_size",
            "types_hash_bucket_size",
            "index",
            "autoindex",
            "charset",
            "etag",
            "log_not_found",
            "if_modified_since",
            "max_ranges",
        ],
        "it concerns files, or is always so",
    ),
    (
        &[
            "server_names_hash_max_size",
            "server_names_hash_bucket_size",
            "variables_hash_max_size",
            "variables_hash_bucket_size",
            "proxy_headers_hash_max_size",
            "proxy_headers_hash_bucket_size",
            "map_hash_max_size",
            "map_hash_bucket_size",
            "merge_slashes",
            "server_name_in_redirect",
            "port_in_redirect",
            "absolute_redirect",
            "client_body_buffer_size",
            "client_body_in_file_only",
            "client_body_temp_path",
            "client_header_buffer_size",
            "large_client_header_buffers",
            "log_subrequest",
            "rewrite_log",
            "uninitialized_variable_warn",
            "keepalive_requests",
            "keepalive_disable",
            "lingering_close",
            "lingering_time",
            "lingering_timeout",
            "chunked_transfer_encoding",
            "ignore_invalid_headers",
            "server_tokens",
            "msie_padding",
            "msie_refresh",
            "postpone_output",
        ],
        "ringway sizes, checks and says this by itself",
    ),
    (
        &[
            "proxy_http_version",
            "proxy_buffering",
            "proxy_buffer_size",
            "proxy_buffers",
            "proxy_busy_buffers_size",
            "proxy_request_buffering",
            "proxy_max_temp_file_size",
            "proxy_temp_path",
            "proxy_temp_file_write_size",
            "proxy_headers_hash",
            "proxy_socket_keepalive",
            "proxy_ignore_client_abort",
            "proxy_pass_request_headers",
            "proxy_pass_request_body",
            "proxy_pass_header",
            "proxy_force_ranges",
            "grpc_buffer_size",
            "proxy_send_lowat",
        ],
        "bodies stream with bounded memory, connections are kept and upgraded by themselves; \
         route.buffer_requests and buffer_responses hold bodies back",
    ),
    (
        &[
            "http2",
            "http2_max_concurrent_streams",
            "http2_max_field_size",
            "http2_max_header_size",
            "http2_idle_timeout",
            "http2_recv_buffer_size",
            "http2_chunk_size",
            "http2_body_preread_size",
            "http2_push_preload",
        ],
        "HTTP/2 is on, with bounds of its own (http2.streams)",
    ),
    (
        &[
            "ssl_session_cache",
            "ssl_session_timeout",
            "ssl_session_tickets",
            "ssl_session_ticket_key",
            "ssl_buffer_size",
            "ssl_early_data",
            "ssl_dhparam",
            "ssl_ecdh_curve",
            "ssl_prefer_server_ciphers",
            "ssl_ciphers",
            "ssl_conf_command",
            "proxy_ssl_session_reuse",
            "proxy_ssl_protocols",
            "proxy_ssl_ciphers",
            "proxy_ssl_verify_depth",
            "ssl_verify_depth",
            "ssl_reject_handshake",
        ],
        "TLS 1.2 and 1.3 with the suites of rustls, of which none is weak; tickets are on",
    ),
];

const COMPRESS: (&str, &str) =
    ("ringway does not compress", "leave that to the origins, which may answer compressed");
const FILES: (&str, &str) =
    ("ringway serves no files", "serve them by an upstream, such as nginx itself, and route there");
const CACHE: (&str, &str) = ("ringway keeps no answers", "put a cache such as Varnish behind it");
const LUA: (&str, &str) =
    ("ringway runs no scripts", "write a hook in Rust (hooks.custom), or leave it to the origin");
const OTHER_PROTOCOL: (&str, &str) =
    ("ringway speaks HTTP alone to origins", "put an HTTP server in front of the application");
const STREAM: (&str, &str) =
    ("ringway carries HTTP, and TCP by CONNECT only", "keep nginx or haproxy for this");

const UNTAKEN: &[(&[&str], (&str, &str))] = &[
    (&["stream", "mail"], STREAM),
    (&["root", "alias", "expires", "random_index", "dav_methods"], FILES),
    (
        &["log_format"],
        ("the forms of ringway's log are its own", "choose log.access_format, such as \"json\""),
    ),
    (
        &["map", "geo", "split_clients", "set", "geoip_country", "geoip2", "userid"],
        (
            "there are no variables of one's own",
            "use conditions of routes (headers, cookies, clients, query) or hooks.split",
        ),
    ),
    (
        &["error_page", "proxy_intercept_errors", "recursive_error_pages"],
        (
            "pages of errors are no locations",
            "name them in hooks.error_pages, with \"file:\" and a path",
        ),
    ),
    (
        &[
            "sub_filter",
            "sub_filter_once",
            "sub_filter_types",
            "addition_types",
            "ssi",
            "image_filter",
            "xslt_stylesheet",
        ],
        ("ringway does not change bodies", "leave that to the origin"),
    ),
    (
        &["mirror", "mirror_request_body"],
        ("what is mirrored is an upstream, not a location", "write hooks.mirror"),
    ),
    (
        &["limit_rate", "limit_rate_after", "proxy_limit_rate"],
        ("ringway does not slow answers down", "limit requests: hooks.rate_limit"),
    ),
    (
        &["real_ip_recursive"],
        (
            "the last address that is not trusted counts, as with \"on\"",
            "name each proxy in server.trusted_proxies",
        ),
    ),
    (
        &["ssl_stapling", "ssl_stapling_verify", "ssl_trusted_certificate", "ssl_stapling_file"],
        (
            "ringway staples what a file has",
            "keep that file fresh and name it in `ocsp` of tls.certificates",
        ),
    ),
    (
        &["ssl_password_file"],
        ("keys with a password are not read", "store the key without one, readable to root alone"),
    ),
    (
        &["proxy_cookie_path", "proxy_cookie_domain", "proxy_cookie_flags"],
        (
            "cookies are changed only by upstream.map_location",
            "see whether map_location does it, else let the origin set them",
        ),
    ),
    (
        &["stub_status", "status", "api", "dashboard"],
        ("ringway's own figures are at its admin address", "ask /metrics there"),
    ),
    (
        &["resolver_timeout", "proxy_next_upstream_timeout"],
        ("there is no such bound by itself", "see dns.timeout, and the timeouts of the route"),
    ),
    (
        &["user"],
        (
            "another program's user may lack what ringway needs",
            "set server.user, which says what is missing, or let the service manager choose",
        ),
    ),
    (
        &[
            "limit_req_status",
            "limit_conn_status",
            "limit_req_log_level",
            "limit_conn_log_level",
            "limit_req_dry_run",
            "limit_conn_dry_run",
        ],
        ("whoever asks too much is answered 429", "nothing, unless clients count on 503"),
    ),
    (
        &["proxy_bind", "proxy_method", "proxy_set_body"],
        ("there is no such key", "leave it to the origin"),
    ),
    (&["auth_jwt"], ("there is no such key", "see hooks.forward_auth")),
    (
        &["break"],
        ("the choice of a route is no program", "see whether the route does what is meant"),
    ),
];

pub(super) fn verdict(name: &str) -> Verdict {
    if TAKEN.contains(&name) {
        return Verdict::Taken;
    }
    if let Some((_, why)) = UNNEEDED.iter().find(|(names, _)| names.contains(&name)) {
        return Verdict::Unneeded(why);
    }
    if let Some((_, (why, cure))) = UNTAKEN.iter().find(|(names, _)| names.contains(&name)) {
        return Verdict::Untaken(why, cure);
    }
    let of_kind = [
        ("gzip", COMPRESS),
        ("brotli", COMPRESS),
        ("zstd", COMPRESS),
        ("gunzip", COMPRESS),
        ("proxy_cache", CACHE),
        ("proxy_store", CACHE),
        ("proxy_no_cache", CACHE),
        ("proxy_ignore_headers", CACHE),
        ("fastcgi", OTHER_PROTOCOL),
        ("uwsgi", OTHER_PROTOCOL),
        ("scgi", OTHER_PROTOCOL),
        ("memcached", OTHER_PROTOCOL),
        ("lua_", LUA),
        ("js_", LUA),
        ("perl", LUA),
    ];
    let found = of_kind.into_iter().find(|(start, _)| name.starts_with(start));
    let found = found.map(|(_, it)| it).or_else(|| name.contains("_by_lua").then_some(LUA));
    let (why, cure) = found.unwrap_or((
        "this import does not know it",
        "see docs/reference/keys.md for a key of that kind",
    ));
    Verdict::Untaken(why, cure)
}
