//! The names of fields: those of HPACK's static table, and those that mean something to a proxy.
//!
//! In come names and indices; out come a name's kind, its place in the static table, and the lines
//! of that table as HTTP/1 spells them. A name is looked up with one multiplication and one
//! comparison.

/// What a field is to the reader of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A field that is passed on and means nothing here.
    Plain,
    Authority,
    Method,
    Path,
    Scheme,
    Status,
    Protocol,
    /// Begins with a colon, and is none of the six above.
    UnknownPseudo,
    /// Says something of an HTTP/1 connection, which must not be said (RFC 9113 §8.2.2).
    OfConnection,
    Te,
    Cookie,
    Host,
    ContentLength,
    Priority,
    /// No name at all: empty, not a token, or not in lower case.
    Malformed,
}

impl Kind {
    /// The kind of a field that is called `name`.
    pub(crate) fn of(name: &[u8]) -> Self {
        if let Some(known) = Known::find(name) {
            return known.kind;
        }
        match name {
            [b':', ..] => Self::UnknownPseudo,
            _ if is_lower_token(name) => Self::Plain,
            _ => Self::Malformed,
        }
    }

    pub(crate) fn is_pseudo(self) -> bool {
        self as u8 >= Self::Authority as u8 && self as u8 <= Self::UnknownPseudo as u8
    }
}

/// A name that is known.
#[derive(Clone, Copy)]
pub(crate) struct Known {
    name: &'static [u8],
    pub kind: Kind,
    /// The first of the static table's entries that are called so; zero: none.
    pub index: u8,
    /// What it says is nobody's business but its receiver's (RFC 7541 §7.1.3).
    pub is_secret: bool,
}

impl Known {
    /// Finds what `name`, in lower case, is known for.
    #[inline]
    pub(crate) fn find(name: &[u8]) -> Option<&'static Self> {
        let (Some(first), Some(last)) = (name.first(), name.last()) else {
            return None;
        };
        let at = slot(name.len(), *first, name[name.len() / 2], *last);
        let known = KNOWN.get(usize::from(SLOTS[at]))?;
        (known.name == name).then_some(known)
    }
}

const fn slot(length: usize, first: u8, middle: u8, last: u8) -> usize {
    let key = length as u32 | (first as u32) << 8 | (middle as u32) << 16 | (last as u32) << 24;
    (key.wrapping_mul(0x1778_8b95) >> 24) as usize
}

/// An entry of the static table, as a line of HTTP/1.
#[derive(Clone, Copy)]
pub(crate) struct StaticLine {
    /// `name: value\r\n`
    pub line: &'static [u8],
    pub name: u8,
    pub kind: Kind,
    /// The line stands for a field that may stand so in a head.
    pub is_valid: bool,
}

/// How many entries the static table has. Its indices begin with one.
pub(crate) const STATIC_COUNT: usize = 61;

/// Entries of the static table by which our answers begin.
pub(crate) const STATUS_INDICES: [(u16, u8); 7] =
    [(200, 8), (204, 9), (206, 10), (304, 11), (400, 12), (404, 13), (500, 14)];

macro_rules! table {
    ($($name:literal $value:literal $kind:ident $valid:literal;)*) => {
        [$(StaticLine {
            line: concat!($name, ": ", $value, "\r\n").as_bytes(),
            name: $name.len() as u8,
            kind: Kind::$kind,
            is_valid: $valid,
        }),*]
    };
}

/// RFC 7541, appendix A.
pub(crate) static STATIC: [StaticLine; STATIC_COUNT] = table! {
    ":authority" "" Authority false;
    ":method" "GET" Method true;
    ":method" "POST" Method true;
    ":path" "/" Path true;
    ":path" "/index.html" Path true;
    ":scheme" "http" Scheme true;
    ":scheme" "https" Scheme true;
    ":status" "200" Status true;
    ":status" "204" Status true;
    ":status" "206" Status true;
    ":status" "304" Status true;
    ":status" "400" Status true;
    ":status" "404" Status true;
    ":status" "500" Status true;
    "accept-charset" "" Plain true;
    "accept-encoding" "gzip, deflate" Plain true;
    "accept-language" "" Plain true;
    "accept-ranges" "" Plain true;
    "accept" "" Plain true;
    "access-control-allow-origin" "" Plain true;
    "age" "" Plain true;
    "allow" "" Plain true;
    "authorization" "" Plain true;
    "cache-control" "" Plain true;
    "content-disposition" "" Plain true;
    "content-encoding" "" Plain true;
    "content-language" "" Plain true;
    "content-length" "" ContentLength false;
    "content-location" "" Plain true;
    "content-range" "" Plain true;
    "content-type" "" Plain true;
    "cookie" "" Cookie true;
    "date" "" Plain true;
    "etag" "" Plain true;
    "expect" "" Plain true;
    "expires" "" Plain true;
    "from" "" Plain true;
    "host" "" Host true;
    "if-match" "" Plain true;
    "if-modified-since" "" Plain true;
    "if-none-match" "" Plain true;
    "if-range" "" Plain true;
    "if-unmodified-since" "" Plain true;
    "last-modified" "" Plain true;
    "link" "" Plain true;
    "location" "" Plain true;
    "max-forwards" "" Plain true;
    "proxy-authenticate" "" Plain true;
    "proxy-authorization" "" Plain true;
    "range" "" Plain true;
    "referer" "" Plain true;
    "refresh" "" Plain true;
    "retry-after" "" Plain true;
    "server" "" Plain true;
    "set-cookie" "" Plain true;
    "strict-transport-security" "" Plain true;
    "transfer-encoding" "" OfConnection false;
    "user-agent" "" Plain true;
    "vary" "" Plain true;
    "via" "" Plain true;
    "www-authenticate" "" Plain true;
};

/// What is known beside the static table.
const OTHERS: [(&[u8], Kind); 8] = [
    (b":protocol", Kind::Protocol),
    (b"connection", Kind::OfConnection),
    (b"http2-settings", Kind::OfConnection),
    (b"keep-alive", Kind::OfConnection),
    (b"priority", Kind::Priority),
    (b"proxy-connection", Kind::OfConnection),
    (b"te", Kind::Te),
    (b"upgrade", Kind::OfConnection),
];

const SECRETS: [&[u8]; 4] = [b"authorization", b"cookie", b"proxy-authorization", b"set-cookie"];

const KNOWN_COUNT: usize = 60;

static KNOWN: [Known; KNOWN_COUNT] = known();

/// By [`slot`]: which of [`KNOWN`] it may be; [`KNOWN_COUNT`]: none.
static SLOTS: [u8; 256] = slots();

const fn known() -> [Known; KNOWN_COUNT] {
    let nobody = Known { name: b"", kind: Kind::Malformed, index: 0, is_secret: false };
    let mut known = [nobody; KNOWN_COUNT];
    let (mut count, mut at) = (0, 0);
    while at < STATIC_COUNT + OTHERS.len() {
        let (name, kind, index) = if at < STATIC_COUNT {
            let entry = &STATIC[at];
            (entry.line.split_at(entry.name as usize).0, entry.kind, at as u8 + 1)
        } else {
            let (name, kind) = OTHERS[at - STATIC_COUNT];
            (name, kind, 0)
        };
        at += 1;
        // Entries of one name stand together.
        if count > 0 && is_same(known[count - 1].name, name) {
            continue;
        }
        let mut secret = 0;
        while secret < SECRETS.len() && !is_same(SECRETS[secret], name) {
            secret += 1;
        }
        known[count] = Known { name, kind, index, is_secret: secret < SECRETS.len() };
        count += 1;
    }
    assert!(count == KNOWN_COUNT);
    known
}

const fn slots() -> [u8; 256] {
    let known = known();
    let mut slots = [KNOWN_COUNT as u8; 256];
    let mut at = 0;
    while at < KNOWN_COUNT {
        let name = known[at].name;
        let slot = slot(name.len(), name[0], name[name.len() / 2], name[name.len() - 1]);
        assert!(slots[slot] == KNOWN_COUNT as u8, "two names in one place");
        slots[slot] = at as u8;
        at += 1;
    }
    slots
}

const fn is_same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut at = 0;
    while at < one.len() {
        if one[at] != other[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// A token (RFC 9110 §5.6.2) without upper case: what a field may be called (RFC 9113 §8.2.1).
pub(crate) fn is_lower_token(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| is_token_byte(*byte) && !byte.is_ascii_uppercase())
}

/// A token in any case, as methods are.
pub(crate) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| is_token_byte(*byte))
}

#[inline]
fn is_token_byte(byte: u8) -> bool {
    TOKEN_BYTES[usize::from(byte)]
}

static TOKEN_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        let is_mark = matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        );
        table[byte as usize] = is_mark || byte.is_ascii_alphanumeric();
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_is_found_and_only_it() {
        for known in &KNOWN {
            let found = Known::find(known.name).expect("itself");
            assert!(std::ptr::eq(found, known), "{}", known.name.escape_ascii());
            let mut longer = known.name.to_vec();
            longer.push(b'x');
            assert!(Known::find(&longer).is_none());
        }
        assert!(Known::find(b"").is_none() && Known::find(b"x-other").is_none());
    }

    #[test]
    fn the_static_table_is_that_of_rfc_7541() {
        let at = |index: usize| STATIC[index - 1].line;
        assert_eq!(at(1), b":authority: \r\n");
        assert_eq!(at(16), b"accept-encoding: gzip, deflate\r\n");
        assert_eq!(at(28), b"content-length: \r\n");
        assert_eq!(at(61), b"www-authenticate: \r\n");
        for (status, index) in STATUS_INDICES {
            assert_eq!(at(index.into()), format!(":status: {status}\r\n").as_bytes());
        }
        for entry in &STATIC {
            assert_eq!(entry.kind, Kind::of(&entry.line[..usize::from(entry.name)]));
        }
    }

    #[test]
    fn a_name_is_a_token_in_lower_case_or_malformed() {
        let cases: [(&[u8], Kind); 10] = [
            (b"x-y", Kind::Plain),
            (b"x_y!", Kind::Plain),
            (b"X-y", Kind::Malformed),
            (b"", Kind::Malformed),
            (b"a b", Kind::Malformed),
            (b"a:", Kind::Malformed),
            (b"a\x80", Kind::Malformed),
            (b":other", Kind::UnknownPseudo),
            (b":Path", Kind::UnknownPseudo),
            (b"keep-alive", Kind::OfConnection),
        ];
        for (name, kind) in cases {
            assert_eq!(Kind::of(name), kind, "{}", name.escape_ascii());
        }
    }
}
