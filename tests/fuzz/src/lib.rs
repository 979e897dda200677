//! Other people's readers of what ringway reads and sends: hyper and llhttp.
//!
//! In go bytes; out comes what each of them has understood, or one of ringway's own checks is run.
//! No target trusts one of them more than ringway: where both accept, both have to mean the same.

pub mod hyper;
pub mod llhttp;

/// Gives `input` to the check of that name.
#[inline]
pub fn check(name: &str, input: &[u8]) {
    let (_, check) =
        ringway::internals::INVARIANTS.iter().find(|(known, _)| *known == name).expect("a check");
    check(input);
}

/// A method and a body.
pub type Asked = (Vec<u8>, Vec<u8>);

/// Whether what a peer has seen is what we have, as far as it went. It may have stopped early.
pub fn check_requests(whose: &str, bytes: &[u8], ours: &[Asked], theirs: &[Asked]) {
    assert!(
        ours.starts_with(theirs),
        "{whose} reads other requests\n{}\nours   {}\ntheirs {}",
        bytes.escape_ascii(),
        shown(ours),
        shown(theirs)
    );
}

fn shown(all: &[Asked]) -> String {
    let one = |(method, body): &Asked| {
        format!("{} with {:?}", method.escape_ascii(), body.escape_ascii().to_string())
    };
    all.iter().map(one).collect::<Vec<_>>().join("; ")
}
