//! Every input that `tests/fuzz/corpus` keeps, through the check of its target: what fuzzers have
//! found to lead somewhere new must lead nowhere wrong, on a stable compiler and without a fuzzer.
//! So must what is made of them by chance, with words of the dictionaries put in.
//!
//! In go the files of the corpora; a test panics where a check does. Targets that hold ringway
//! against other programs have their own part of it checked. `RINGWAY_FUZZ_ROUNDS` says how many
//! changed inputs each target gets, and `RINGWAY_FUZZ_SEED` which ones.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use ringway::internals::http::invariants::{answer_read, sent_on};
use ringway::internals::http2::invariants::hpack_blocks;
use ringway::internals::{Check, INVARIANTS};

/// All corpora together have no more.
const CORPORA_BYTES_MAX: u64 = 1 << 20;

/// Targets that need other people's readers, by what ringway does in them.
const PEERS: [(&str, Check); 3] = [
    ("answers", |input| drop(answer_read(input))),
    ("http2_hpack_peer", |input| drop(hpack_blocks(input))),
    ("smuggling", |input| drop(sent_on(input))),
];

fn checks() -> impl Iterator<Item = (&'static str, Check)> {
    INVARIANTS.iter().copied().chain(PEERS)
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz").join(name)
}

/// The files of a folder, in their order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

fn names(folder: &Path) -> BTreeSet<String> {
    let stem = |path: &PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
    files(folder).iter().map(stem).collect()
}

#[test]
fn every_input_that_was_kept_holds_what_its_target_promises() {
    let mut count = 0;
    for (name, check) in checks() {
        for file in files(&folder("corpus").join(name)) {
            let input = fs::read(&file).expect("a file");
            let done = std::panic::catch_unwind(|| check(&input));
            assert!(done.is_ok(), "{}", file.display());
            count += 1;
        }
    }
    assert!(count > 0, "there are inputs");
}

/// xorshift64: the same inputs for the same seed.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }

    /// One of `corpus` after one to five changes.
    fn changed(&mut self, corpus: &[Vec<u8>], words: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(5) {
            let at = self.below(bytes.len() + 1);
            let end = (at + self.below(12)).min(bytes.len());
            match self.below(6) {
                0 => drop(bytes.drain(at..end)),
                1 => bytes.insert(at, self.below(256) as u8),
                2 => {
                    let other = &corpus[self.below(corpus.len())];
                    let from = self.below(other.len());
                    let part = &other[from..(from + self.below(40)).min(other.len())];
                    drop(bytes.splice(at..end, part.iter().copied()));
                }
                3 => bytes.iter_mut().skip(at).take(1).for_each(|it| *it ^= 1 << (end % 8)),
                _ if words.is_empty() => bytes.truncate(at),
                kind => {
                    let end = if kind == 4 { at } else { end };
                    drop(bytes.splice(at..end, words[self.below(words.len())].iter().copied()));
                }
            }
        }
        bytes.truncate(4096);
        bytes
    }
}

/// The words of a dictionary as libFuzzer writes them.
fn words(name: &str) -> Vec<Vec<u8>> {
    let path = folder("dictionaries").join(format!("{name}.dict"));
    let text = fs::read_to_string(path).unwrap_or_default();
    let quoted = text.lines().filter_map(|line| line.strip_prefix('"')?.strip_suffix('"'));
    let plain = |word: &str| {
        let (mut bytes, mut rest) = (Vec::new(), word);
        while let Some((before, code)) = rest.split_once("\\x") {
            bytes.extend_from_slice(before.as_bytes());
            bytes.push(u8::from_str_radix(&code[..2], 16).expect("two digits"));
            rest = &code[2..];
        }
        bytes.extend_from_slice(rest.as_bytes());
        bytes
    };
    quoted.map(plain).collect()
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn changed_inputs_hold_what_their_target_promises() {
    let rounds = number("RINGWAY_FUZZ_ROUNDS", 100);
    for (name, check) in checks() {
        let corpus = files(&folder("corpus").join(name)).into_iter();
        let corpus: Vec<_> = corpus.map(|file| fs::read(file).expect("a file")).collect();
        let words = words(name);
        let seed = number("RINGWAY_FUZZ_SEED", 0x9e37_79b9_7f4a_7c15).max(1);
        let mut seeded = Seeded(seed);
        for round in 0..rounds {
            let input = seeded.changed(&corpus, &words);
            let done = std::panic::catch_unwind(|| check(&input));
            assert!(done.is_ok(), "{name}, round {round} of seed {seed}: {}", input.escape_ascii());
        }
    }
}

#[test]
fn each_fuzz_target_has_a_check_and_a_corpus() {
    let known: BTreeSet<String> = checks().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(names(&folder("fuzz_targets")), known);
    assert_eq!(names(&folder("corpus")), known);
    for name in names(&folder("dictionaries")) {
        assert!(known.contains(&name), "a dictionary of no target: {name}");
    }
}

#[test]
fn the_corpora_are_small() {
    let all = names(&folder("corpus"));
    let files = all.iter().flat_map(|name| files(&folder("corpus").join(name)));
    let bytes: u64 = files.map(|file| fs::metadata(file).expect("a file").len()).sum();
    assert!(bytes < CORPORA_BYTES_MAX, "{bytes} bytes: minimise them with tests/fuzz/run.sh cmin");
}
