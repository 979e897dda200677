//! Field names and the grammar of field lines: which names a proxy must know, and which bytes may
//! stand where.
//!
//! In come bytes of names and values; out come a name's class ([`FieldName`]), sets of classes, and
//! the elements of lists. Nothing is decoded and nothing is copied. Names that only a configuration
//! can tell are the business of `interest`.

/// The class of a field name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FieldName {
    /// End-to-end and of no interest to a proxy.
    Other,
    /// Not known by name, but named by this head's Connection field: hop-by-hop here.
    Named,
    /// Not known by name, but taken for one that is, or that somebody wants, by readers that do not
    /// tell `_` from `-`: CGI, WSGI and PHP.
    Shadow,
    /// A Content-Length with leading zeros: legal, but said anew rather than passed on.
    PaddedLength,
    Authorization,
    CdnLoop,
    Connection,
    ContentLength,
    Date,
    Expect,
    Forwarded,
    Host,
    KeepAlive,
    MaxForwards,
    /// No field of HTTP: CGI makes `HTTP_PROXY` of it, by which libraries choose a proxy.
    Proxy,
    ProxyAuthenticate,
    ProxyAuthorization,
    ProxyConnection,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    Via,
    XForwardedFor,
    XForwardedHost,
    XForwardedPort,
    XForwardedPrefix,
    XForwardedProto,
    XForwardedSsl,
    /// Other fields by which servers believe what a proxy says of its client.
    Claim,
    XRealIp,
    /// The field that `server.client_ip_header` names, where no class is for it by itself.
    ClientIp,
    /// Not known by name, but one of those that [`super::interest::FieldInterest`] has.
    OfInterest,
}

impl FieldName {
    /// Classifies a field name, which must be a token.
    #[inline]
    pub fn of(name: &[u8]) -> Self {
        Candidate::of(name).map_or(Self::Other, |candidate| candidate.confirm(name))
    }

    /// Whether it tells of a client what only a proxy can know, beside the fields that we append to
    /// or say anew.
    pub(crate) fn is_claim(self) -> bool {
        matches!(
            self,
            Self::XForwardedPort
                | Self::XForwardedPrefix
                | Self::XForwardedSsl
                | Self::XRealIp
                | Self::Claim
        )
    }
}

/// The known name that a name's length and first letter leave possible, mostly the only one, or, in
/// a table that also has others, which of its groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate(u8);

impl Candidate {
    #[inline]
    pub(crate) fn of(name: &[u8]) -> Option<Self> {
        Self::among(&CANDIDATES, name)
    }

    #[inline]
    pub(crate) fn among(candidates: &[Row], name: &[u8]) -> Option<Self> {
        let first = name.first()?;
        let candidate = *candidates.get(name.len())?.get(column(*first))?;
        (candidate != NONE).then_some(Self(candidate))
    }

    /// Compares the rest of the name. Only for those of [`CANDIDATES`].
    #[inline]
    pub(crate) fn confirm(self, name: &[u8]) -> FieldName {
        let (lower, known) = NAMES[usize::from(self.0)];
        if is_name(name, lower) { known } else { confirm_other(usize::from(self.0), name) }
    }

    /// The number of the group that this is, if it is one.
    #[inline]
    pub(crate) fn number(self) -> Option<usize> {
        usize::from(self.0).checked_sub(NAMES.len())
    }

    /// The candidate that means this group.
    pub(crate) fn group(number: usize) -> Option<Self> {
        let candidate = u8::try_from(NAMES.len() + number).ok()?;
        (candidate != NONE).then_some(Self(candidate))
    }

    /// Puts itself where `name` is looked for, which must be within the table.
    pub(crate) fn put(self, candidates: &mut [Row], name: &[u8]) {
        candidates[name.len()][column(name[0])] = self.0;
    }
}

/// The class of a name that has the place of the name `first`, which it is not.
fn confirm_other(first: usize, name: &[u8]) -> FieldName {
    let shares = |lower: &[u8]| lower.len() == name.len() && column(lower[0]) == column(name[0]);
    let alike = NAMES[first..].iter().take_while(|(lower, _)| shares(lower));
    for (lower, known) in alike.clone().skip(1) {
        if is_name(name, lower) {
            return *known;
        }
    }
    if name.contains(&b'_') && alike.clone().any(|(lower, _)| is_shadow(name, lower)) {
        return FieldName::Shadow;
    }
    FieldName::Other
}

/// Whether two names, which are not the same, become the same variable of CGI.
pub(crate) fn is_shadow(name: &[u8], other: &[u8]) -> bool {
    let variable = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    name.iter().map(variable).eq(other.iter().map(variable)) && !name.eq_ignore_ascii_case(other)
}

/// The candidates of one length, by the last five bits of the first letter.
pub(crate) type Row = [u8; 32];

const fn column(first: u8) -> usize {
    (first & 31) as usize
}

/// The known names, in lower case. Those of one length and first letter stand together, the most
/// usual one first. Those of no class are here for their shadows: gunicorn takes `SCRIPT_NAME` from
/// a proxy and cuts it off the path, by which a client would get past the routes.
const NAMES: [(&[u8], FieldName); 33] = [
    (b"authorization", FieldName::Authorization),
    (b"cdn-loop", FieldName::CdnLoop),
    (b"connection", FieldName::Connection),
    (b"content-length", FieldName::ContentLength),
    (b"date", FieldName::Date),
    (b"expect", FieldName::Expect),
    (b"forwarded", FieldName::Forwarded),
    (b"front-end-https", FieldName::Claim),
    (b"host", FieldName::Host),
    (b"keep-alive", FieldName::KeepAlive),
    (b"max-forwards", FieldName::MaxForwards),
    (b"path-info", FieldName::Other),
    (b"proxy", FieldName::Proxy),
    (b"proxy-authenticate", FieldName::ProxyAuthenticate),
    (b"proxy-authorization", FieldName::ProxyAuthorization),
    (b"proxy-connection", FieldName::ProxyConnection),
    (b"remote-user", FieldName::Other),
    (b"script-name", FieldName::Other),
    (b"te", FieldName::Te),
    (b"trailer", FieldName::Trailer),
    (b"transfer-encoding", FieldName::TransferEncoding),
    (b"upgrade", FieldName::Upgrade),
    (b"via", FieldName::Via),
    (b"x-forwarded-for", FieldName::XForwardedFor),
    (b"x-forwarded-ssl", FieldName::XForwardedSsl),
    (b"x-forwarded-host", FieldName::XForwardedHost),
    (b"x-forwarded-port", FieldName::XForwardedPort),
    (b"x-forwarded-proto", FieldName::XForwardedProto),
    (b"x-forwarded-prefix", FieldName::XForwardedPrefix),
    (b"x-forwarded-scheme", FieldName::Claim),
    (b"x-forwarded-server", FieldName::Claim),
    (b"x-forwarded-protocol", FieldName::Claim),
    (b"x-real-ip", FieldName::XRealIp),
];

/// The length of the longest name.
const NAME_BYTES_MAX: usize = 20;

const NONE: u8 = u8::MAX;

pub(crate) const NO_CANDIDATES: Row = [NONE; 32];

/// By length: the index in [`NAMES`] of the first that it may be, or [`NONE`].
pub(crate) static CANDIDATES: [Row; NAME_BYTES_MAX + 1] = {
    let mut candidates = [NO_CANDIDATES; NAME_BYTES_MAX + 1];
    let mut at = 0;
    while at < NAMES.len() {
        let name = NAMES[at].0;
        let candidate = &mut candidates[name.len()][column(name[0])];
        if *candidate == NONE {
            *candidate = at as u8;
        } else {
            let (before, _) = NAMES[at - 1];
            assert!(
                before.len() == name.len() && column(before[0]) == column(name[0]),
                "names that length and first letter do not tell apart must stand together"
            );
        }
        at += 1;
    }
    candidates
};

/// A set of field classes, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FieldNameSet(u64);

impl FieldNameSet {
    pub const EMPTY: Self = Self(0);

    #[inline]
    #[must_use]
    pub const fn with(self, known: FieldName) -> Self {
        Self(self.0 | 1 << known as u8)
    }

    #[inline]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[inline]
    pub const fn has(self, known: FieldName) -> bool {
        self.0 & (1 << known as u8) != 0
    }

    #[inline]
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Whether a Connection option may not take this field away, and a trailer may not bring it:
/// fields that frame, route, authorise or describe the message for everybody (RFC 9110 §7.6.1).
/// Stripping credentials or addresses by naming them in Connection is a known attack.
pub(crate) fn is_essential(name: &[u8]) -> bool {
    const ESSENTIAL: [&[u8]; 13] = [
        b"cache-control",
        b"content-encoding",
        b"content-range",
        b"content-type",
        b"cookie",
        b"location",
        b"origin",
        b"pragma",
        b"range",
        b"set-cookie",
        b"vary",
        b"www-authenticate",
        b"x-real-ip",
    ];
    const FORWARDED: &[u8] = b"x-forwarded-";
    FieldName::of(name) != FieldName::Other
        || ESSENTIAL.iter().any(|essential| name.eq_ignore_ascii_case(essential))
        || name.get(..FORWARDED.len()).is_some_and(|start| start.eq_ignore_ascii_case(FORWARDED))
}

/// The elements of a comma-separated list, without the white space around them; empty ones are
/// given too. Not for lists whose elements may hold quoted commas.
pub(crate) fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim)
}

/// The values of the cookies called `name` in a Cookie field (RFC 6265 §4.2.1).
pub(crate) fn cookies<'a>(field: &'a [u8], name: &[u8]) -> impl Iterator<Item = &'a [u8]> {
    let pairs = field.split(|byte| *byte == b';').map(trim);
    pairs.filter_map(move |pair| pair.strip_prefix(name)?.strip_prefix(b"="))
}

/// `value` without the spaces and tabs around it.
pub(crate) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Whether `byte` may be part of a token (RFC 9110 §5.6.2).
#[inline]
pub(crate) fn is_token(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// Whether `byte` may be part of a field value: anything but control bytes, tab excepted.
#[inline]
pub(crate) fn is_text(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7f || byte == b'\t'
}

/// Compares without regard to case, by words rather than bytes. `token` holds no control bytes;
/// only letters then differ from those of `lower` in the bit that is ignored, if `lower` is a name
/// without `~`, for which `^` would pass.
#[inline]
pub(crate) fn is_name(token: &[u8], lower: &[u8]) -> bool {
    token.len() == lower.len()
        && match token.len() {
            4..8 => is_same_at_ends::<4>(token, lower),
            8..=16 => is_same_at_ends::<8>(token, lower),
            17..=32 => is_same_at_ends::<16>(token, lower),
            _ => token.eq_ignore_ascii_case(lower),
        }
}

/// Whether the first and the last `N` bytes, which may overlap, are those of `lower`.
#[inline]
fn is_same_at_ends<const N: usize>(token: &[u8], lower: &[u8]) -> bool {
    let is_same = |token: Option<&[u8; N]>, lower: Option<&[u8; N]>| {
        let (Some(token), Some(lower)) = (token, lower) else { return false };
        (0..N).fold(0, |difference, at| difference | (token[at] | 0x20) ^ lower[at]) == 0
    };
    is_same(token.first_chunk(), lower.first_chunk())
        && is_same(token.last_chunk(), lower.last_chunk())
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8,
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\''
            | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_any_case() {
        for (name, known) in NAMES {
            let upper = name.to_ascii_uppercase();
            let mut mixed = upper.clone();
            mixed.iter_mut().step_by(2).for_each(|byte| *byte = byte.to_ascii_lowercase());
            for spelling in [name, &upper, &mixed] {
                assert_eq!(FieldName::of(spelling), known);
            }
        }
    }

    #[test]
    fn a_name_with_an_underscore_is_the_shadow_of_one_that_is_known() {
        let shadows = [
            "X_Forwarded_For",
            "x-forwarded_for",
            "X_FORWARDED_SSL",
            "Content_Length",
            "transfer_encoding",
            "X_Real_IP",
            "x_forwarded_protocol",
            "Keep_Alive",
            "SCRIPT_NAME",
            "Path_Info",
            "remote_user",
        ];
        for name in shadows {
            assert_eq!(FieldName::of(name.as_bytes()), FieldName::Shadow, "{name}");
        }
        for name in
            ["Script-Name", "x_forwarded_foo", "X_User", "_", "content_lengthy", "ho_t", "h_st"]
        {
            assert_eq!(FieldName::of(name.as_bytes()), FieldName::Other, "{name}");
        }
    }

    /// Every byte of every name replaced by every other token byte, and every name cut and grown.
    #[test]
    fn what_differs_in_one_byte_is_not_known() {
        for (name, known) in NAMES.into_iter().filter(|(_, known)| *known != FieldName::Other) {
            for at in 0..name.len() {
                for byte in (0..=255).filter(|&byte| is_token(byte)) {
                    let mut other = name.to_vec();
                    other[at] = byte;
                    let is_same = byte.eq_ignore_ascii_case(&name[at]);
                    let other_is = |other: &[u8]| FieldName::of(other) == known;
                    assert_eq!(other_is(&other), is_same, "{}", other.escape_ascii());
                }
            }
            assert_ne!(FieldName::of(&name[1..]), known);
            assert_ne!(FieldName::of(&name[..name.len() - 1]), known);
            assert_ne!(FieldName::of(&[name, b"s"].concat()), known);
        }
        assert_eq!(FieldName::of(b""), FieldName::Other);
        assert_eq!(FieldName::of(&[b'x'; 100]), FieldName::Other);
    }

    #[test]
    fn lists_give_their_elements_without_white_space() {
        let list = |text| elements(text).collect::<Vec<&[u8]>>();
        assert_eq!(list(b"a"), [b"a"]);
        assert_eq!(list(b" a\t,\tb c ,,"), [&b"a"[..], b"b c", b"", b""]);
        assert_eq!(list(b""), [b""]);
    }

    #[test]
    fn long_names_are_compared_whole() {
        let name = [b'a'; 40];
        let mut other = name;
        other[20] = b'b';
        assert!(is_name(&name, &name));
        assert!(!is_name(&other, &name));
    }
}
