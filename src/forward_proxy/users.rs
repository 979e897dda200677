//! The users file: who may use the forward proxy, and the hashes of their passwords.
//!
//! In: a file of `user:hash` lines as `htpasswd -B` writes them; empty lines and lines that begin
//! with `#` say nothing, and like Apache's and nginx's what follows a second colon is a comment.
//! Out: `Users`, or an error that names the file, the line and the cure, and never shows a hash.
//! bcrypt and argon2 are accepted. Everything faster is refused: a file that leaks must not give
//! the passwords away.
//!
//! Names are compared byte by byte, so a client that writes `ü` in another Unicode form than the
//! file is unknown. Checking a password takes as long as its hash was made to take: it is for the
//! threads of `auth`. Loading reads a file, so it is for the start and for a reload.

use std::collections::HashMap;
use std::fmt;
use std::hash::BuildHasher;
use std::path::Path;

use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc;
use argon2::{Algorithm, Argon2, Params, Version};

use super::lists::text_within;
use crate::limits::PASSWORD_CHECK_BYTES_MAX;

/// 30,000 users with argon2 hashes.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// 2^15 rounds take three seconds.
const BCRYPT_COST_MAX: u32 = 15;

/// RFC 9106 §4's choice for machines without memory to spare. Each thread that hashes takes so
/// much for as long as it hashes.
const ARGON2_MEMORY_KIB_MAX: u32 = (PASSWORD_CHECK_BYTES_MAX / 1024) as u32;

/// With the most memory, a second.
const ARGON2_PASSES_MAX: u32 = 16;
const ARGON2_LANES_MAX: u32 = 16;

/// Longer names do not fit a field either, see `credentials`.
const NAME_BYTES_MAX: usize = 256;

/// Everyone who may log in. Never empty.
#[derive(PartialEq, Eq)]
pub struct Users {
    users: Vec<User>,
    /// The hasher is seeded at random, which `stand_in` needs.
    by_name: HashMap<Box<str>, UserId>,
}

/// Index of a user. Good only for the `Users` that it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(u32);

#[derive(PartialEq, Eq)]
struct User {
    name: Box<str>,
    hash: Hash,
}

/// The hash of a password, with what it takes to compute it again.
#[derive(PartialEq, Eq)]
pub(super) enum Hash {
    Bcrypt(Box<str>),
    Argon2 { text: Box<str>, memory_kib: u32 },
}

impl UserId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl Users {
    pub fn load(path: &Path) -> Result<Self, String> {
        let text = text_within(path, FILE_BYTES_MAX, ", so it is no users file");
        let text = text.map_err(|problem| format!("{}: {problem}", path.display()))?;
        Self::parse(&text).map_err(|(line, problem)| match line {
            Some(line) => format!("{}:{line}: {problem}", path.display()),
            None => format!("{}: {problem}", path.display()),
        })
    }

    /// The number of a bad line, and what is wrong with it.
    fn parse(text: &str) -> Result<Self, (Option<usize>, String)> {
        let mut users = Vec::new();
        let mut by_name: HashMap<Box<str>, UserId> = HashMap::new();
        let mut lines = Vec::new();
        // Some editors begin a file with the mark of its encoding.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let user = User::parse(line).map_err(|problem| (Some(number), problem))?;
            if let Some(other) = by_name.get(&user.name) {
                let first: usize = lines[other.index()];
                let problem = format!("{:?} is already in line {first}", user.name);
                return Err((Some(number), problem));
            }
            by_name.insert(user.name.clone(), UserId(users.len() as u32));
            users.push(user);
            lines.push(number);
        }
        if users.is_empty() {
            let problem = "has no user, so nobody could log in; \
                           `htpasswd -nB USER` makes a line for it";
            return Err((None, problem.to_owned()));
        }
        Ok(Self { users, by_name })
    }

    pub fn find(&self, name: &str) -> Option<UserId> {
        self.by_name.get(name).copied()
    }

    /// `id` must be of these users.
    pub fn name(&self, id: UserId) -> &str {
        self.users.get(id.index()).map_or("", |user| &user.name)
    }

    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Never true: such a file is refused.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    pub(super) fn hash(&self, id: UserId) -> &Hash {
        &self.users[id.index()].hash
    }

    /// The user whose hash is computed for a name that does not exist. Always the same one for a
    /// name, and each as likely as any other: where hashes differ in cost, the time tells nothing
    /// either.
    pub(super) fn stand_in(&self, name: &str) -> UserId {
        let hash = self.by_name.hasher().hash_one(name);
        UserId((hash % self.users.len() as u64) as u32)
    }

    /// What one check of a password allocates at most.
    pub(super) fn check_bytes_max(&self) -> u64 {
        let bytes = |user: &User| match user.hash {
            Hash::Bcrypt(_) => 0,
            Hash::Argon2 { memory_kib, .. } => u64::from(memory_kib) * 1024,
        };
        self.users.iter().map(bytes).max().unwrap_or(0)
    }
}

/// Shows no hash.
impl fmt::Debug for Users {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} users", self.users.len())
    }
}

impl User {
    fn parse(line: &str) -> Result<Self, String> {
        let Some((name, rest)) = line.split_once(':') else {
            let cure = "`htpasswd -nB USER` makes such a line";
            return Err(format!("expected USER:HASH, found no \":\"; {cure}"));
        };
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(char::is_control) {
            let expected = format!("1 to {NAME_BYTES_MAX} bytes without control characters");
            return Err(format!("a name has {expected}, not {:?}", cut(name)));
        }
        let hash = rest.split(':').next().unwrap_or_default();
        match Hash::parse(hash) {
            Ok(hash) => Ok(Self { name: name.into(), hash }),
            Err(problem) => {
                let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
                let word = if name.bytes().all(is_plain) { name } else { "USER" };
                let cure = format!("`htpasswd -nB {word}` makes a good line");
                Err(format!("the password of {name:?} {problem}; {cure}"))
            }
        }
    }
}

impl Hash {
    fn parse(text: &str) -> Result<Self, String> {
        if ["$2a$", "$2b$", "$2y$"].iter().any(|scheme| text.starts_with(scheme)) {
            return Self::bcrypt(text);
        }
        if text.starts_with("$argon2") {
            return Self::argon2(text);
        }
        let scheme = match text {
            "" => return Err("is missing".to_owned()),
            _ if text.starts_with("$2") => "this kind of bcrypt, which had a flaw",
            _ if text.starts_with("$apr1$") || text.starts_with("$1$") => "MD5",
            _ if text.starts_with("{SHA}") || text.starts_with("{SSHA}") => "SHA-1",
            _ if text.starts_with("$5$") || text.starts_with("$6$") => "SHA-2 crypt",
            _ if text.starts_with('$') => "an unknown kind",
            _ => "plain text, or a kind as weak",
        };
        Err(format!("is stored as {scheme}, expected bcrypt or argon2"))
    }

    fn bcrypt(text: &str) -> Result<Self, String> {
        let parts: bcrypt::HashParts =
            text.parse().map_err(|error| format!("is not a bcrypt hash ({error})"))?;
        match parts.get_cost() {
            4..=BCRYPT_COST_MAX => Ok(Self::Bcrypt(text.into())),
            cost => Err(format!("has the bcrypt cost {cost}, expected 4 to {BCRYPT_COST_MAX}")),
        }
    }

    fn argon2(text: &str) -> Result<Self, String> {
        let not = |error: &dyn fmt::Display| format!("is not an argon2 hash ({error})");
        let hash = phc::PasswordHash::new(text).map_err(|error| not(&error))?;
        let algorithm = hash.algorithm.as_str();
        if Algorithm::new(algorithm).is_err() {
            return Err(not(&format_args!("{algorithm} is none of argon2id, argon2i, argon2d")));
        }
        if hash.salt.is_none() || hash.hash.is_none() {
            return Err(not(&"it ends too early"));
        }
        // Without it PHC means an older version than this crate does.
        if hash.version.is_none_or(|version| Version::try_from(version).is_err()) {
            return Err(not(&"expected v=16 or v=19"));
        }
        let params = Params::try_from(&hash).map_err(|error| not(&error))?;
        let (memory_kib, passes, lanes) = (params.m_cost(), params.t_cost(), params.p_cost());
        if memory_kib > ARGON2_MEMORY_KIB_MAX
            || passes > ARGON2_PASSES_MAX
            || lanes > ARGON2_LANES_MAX
        {
            return Err(format!(
                "has the argon2 costs m={memory_kib},t={passes},p={lanes}, expected at most \
                 m={ARGON2_MEMORY_KIB_MAX},t={ARGON2_PASSES_MAX},p={ARGON2_LANES_MAX}"
            ));
        }
        Ok(Self::Argon2 { text: text.into(), memory_kib })
    }

    /// Takes its time. bcrypt looks at the first 72 bytes of a password only.
    pub(super) fn is_of(&self, password: &[u8]) -> bool {
        match self {
            Self::Bcrypt(text) => bcrypt::verify(password, text).unwrap_or(false),
            Self::Argon2 { text, .. } => {
                phc::PasswordHash::new(text).is_ok_and(|hash: phc::PasswordHash| {
                    Argon2::default().verify_password(password, &hash).is_ok()
                })
            }
        }
    }
}

/// A name as logs and errors may show it.
pub(super) fn cut(name: &str) -> String {
    const CHARS_MAX: usize = 64;
    name.chars().take(CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    impl Users {
        /// Of a text that must be right.
        pub(in crate::forward_proxy) fn of(text: &str) -> Self {
            Self::parse(text).map_err(|(line, problem)| format!("{line:?} {problem}")).unwrap()
        }
    }

    /// From the tests of crypt_blowfish: the password is `U*U`.
    const BCRYPT: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
    /// From the tests of the reference implementation: the password is `password`.
    const ARGON2ID: &str =
        "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
    const ARGON2I: &str =
        "$argon2i$v=19$m=256,t=2,p=1$c29tZXNhbHQ$iekCn0Y3spW+sCcFanM2xBT63UP2sghkUoHLIUpWRS8";

    fn file(name: &str, content: &[u8]) -> PathBuf {
        let name = format!("ringway-users-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    #[test]
    fn hashes_of_other_programs_are_understood() {
        let latin = "$2y$05$/OK.fbVrR/bpIqNJ5ianF.CE5elHaaO4EbggVDjb8P19RukzXSM3e";
        let table: [(&str, &[u8]); 5] = [
            (BCRYPT, b"U*U"),
            (&BCRYPT.replace("$2a$", "$2b$"), b"U*U"),
            (latin, b"\xff\xff\xa3"),
            (ARGON2ID, b"password"),
            (ARGON2I, b"password"),
        ];
        for (text, password) in table {
            let hash = Hash::parse(text).unwrap();
            assert!(hash.is_of(password), "{text}");
            for wrong in [b"".as_slice(), b"U*V", b"passwore", &password[1..]] {
                assert!(!hash.is_of(wrong), "{text} {}", wrong.escape_ascii());
            }
        }
    }

    #[test]
    fn a_file_has_users_comments_and_empty_lines() {
        let text = format!(
            "# a comment: with a colon\n\nalice:{BCRYPT}\r\n  \n bob:{ARGON2ID}:Bob Smith\n\
             c d\u{e9}:{ARGON2I}"
        );
        let path = file("good", text.as_bytes());
        let users = Users::load(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let names: Vec<_> = (0..3).map(|index| users.name(UserId(index))).collect();
        assert_eq!(names, ["alice", "bob", "c d\u{e9}"]);
        assert_eq!((users.len(), users.is_empty()), (3, false));
        assert_eq!(users.find("bob").map(UserId::index), Some(1));
        assert!(users.hash(UserId(1)).is_of(b"password"));
        for unknown in ["", "Alice", "alice ", "# a comment", "c de\u{301}"] {
            assert_eq!(users.find(unknown), None, "{unknown}");
        }
        assert_eq!(users.name(UserId(3)), "");
        assert_eq!(users.check_bytes_max(), 256 * 1024);
        assert_eq!(format!("{users:?}"), "3 users");
    }

    #[test]
    fn a_bad_line_is_named_with_its_cure_and_never_shown() {
        let weak = "expected bcrypt or argon2";
        let table = [
            ("secret", "1: expected USER:HASH, found no \":\"; `htpasswd -nB USER` makes"),
            (":secret", "1: a name has 1 to 256 bytes without control characters, not \"\""),
            ("a\u{7}:secret", "1: a name has 1 to 256 bytes without control characters"),
            ("bob:", "1: the password of \"bob\" is missing; `htpasswd -nB bob` makes a good"),
            ("bob:secret", "1: the password of \"bob\" is stored as plain text, or a kind as weak"),
            ("#\n\nbob:$apr1$secret$x", "3: the password of \"bob\" is stored as MD5, expected"),
            ("bob:$1$secret$x", "1: the password of \"bob\" is stored as MD5"),
            ("bob:{SHA}secret", "1: the password of \"bob\" is stored as SHA-1"),
            ("bob:$6$secret$x", "1: the password of \"bob\" is stored as SHA-2 crypt"),
            ("bob:$7$secret", "1: the password of \"bob\" is stored as an unknown kind"),
            ("bob:$2x$05$secret", "1: the password of \"bob\" is stored as this kind of bcrypt"),
            ("b b:secret", "1: the password of \"b b\" is stored as plain text"),
            ("bob:$2y$05$secret", "1: the password of \"bob\" is not a bcrypt hash"),
            ("bob:$argon2id$secret", "1: the password of \"bob\" is not an argon2 hash"),
            ("bob:$argon2id$v=19$m=256,t=2,p=1$c2VjcmV0", "1: the password of \"bob\" is not"),
            ("bob:$argon2x$v=19$m=8,t=1,p=1$c2VjcmV0$c2VjcmV0c2VjcmV0", "1: the password of"),
        ];
        for (text, expected) in table {
            let (line, problem) = Users::parse(text).unwrap_err();
            let error = format!("{}: {problem}", line.unwrap());
            assert!(error.starts_with(expected), "{text}\n{error}");
            assert!(error.contains("`htpasswd -nB ") || error.contains("a name has"), "{error}");
            assert!(!error.contains("secret") && !error.contains("c2Vj"), "{error}");
            assert!(!error.contains("stored as") || error.contains(weak), "{error}");
        }
        let (_, problem) = Users::parse("b b:x").unwrap_err();
        assert!(problem.ends_with("`htpasswd -nB USER` makes a good line"), "{problem}");
    }

    #[test]
    fn a_hash_that_would_take_too_long_or_too_much_is_refused() {
        let table = [
            (BCRYPT.replace("$05$", "$16$"), "has the bcrypt cost 16, expected 4 to 15"),
            (BCRYPT.replace("$05$", "$03$"), "has the bcrypt cost 3, expected 4 to 15"),
            (
                ARGON2ID.replace("m=256", "m=19457"),
                "has the argon2 costs m=19457,t=2,p=1, expected at most m=19456,t=16,p=16",
            ),
            (ARGON2ID.replace("t=2", "t=17"), "has the argon2 costs m=256,t=17,p=1"),
            (ARGON2ID.replace("p=1", "p=17"), "has the argon2 costs m=256,t=2,p=17"),
            (ARGON2ID.replace("p=1", "p=64"), "is not an argon2 hash"),
            (ARGON2ID.replace("v=19", "v=18"), "is not an argon2 hash (expected v=16 or v=19)"),
            (ARGON2ID.replace("v=19$", ""), "is not an argon2 hash (expected v=16 or v=19)"),
        ];
        for (text, expected) in table {
            let problem = Hash::parse(&text).err().unwrap_or_default();
            assert!(problem.starts_with(expected), "{text}\n{problem}");
        }
        assert!(Hash::parse(&ARGON2ID.replace("m=256,t=2,p=1", "m=19456,t=16,p=16")).is_ok());
        assert!(Hash::parse(&BCRYPT.replace("$05$", "$15$")).is_ok());
    }

    #[test]
    fn a_name_stands_once() {
        let text = format!("bob:{BCRYPT}\n\n#\nbob:{ARGON2ID}");
        let error = Users::parse(&text).unwrap_err();
        assert_eq!(error, (Some(4), "\"bob\" is already in line 1".to_owned()));
    }

    #[test]
    fn a_file_that_cannot_be_one_is_named() {
        let good = file("missing", b"");
        std::fs::remove_file(&good).unwrap();
        let table = [
            (good, "cannot be read: No such file or directory"),
            (std::env::temp_dir(), "cannot be read: Is a directory"),
            (file("binary", b"\xff\xfe\0"), "is not UTF-8 text"),
            (file("large", &vec![b'#'; FILE_BYTES_MAX as usize + 1]), "is larger than 4194304"),
            (file("empty", b"# nobody\n"), "has no user, so nobody could log in; `htpasswd -nB"),
        ];
        for (path, expected) in table {
            let error = Users::load(&path).unwrap_err();
            assert!(error.starts_with(&format!("{}: {expected}", path.display())), "{error}");
            if path.is_file() {
                std::fs::remove_file(&path).unwrap();
            }
        }
        let path = file("line", b"\nbob:x\n");
        let error = Users::load(&path).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert!(error.starts_with(&format!("{}:2: the password of", path.display())), "{error}");
    }

    #[test]
    fn a_name_that_does_not_exist_has_one_stand_in() {
        let text: Vec<_> = (0..8).map(|number| format!("user{number}:{BCRYPT}")).collect();
        let users = Users::of(&text.join("\n"));
        let mut seen = [false; 8];
        for number in 0..1000 {
            let name = format!("stranger{number}");
            let stand_in = users.stand_in(&name);
            assert_eq!(stand_in, users.stand_in(&name));
            seen[stand_in.index()] = true;
        }
        assert_eq!(seen, [true; 8]);
    }
}
