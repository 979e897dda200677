//! The grammar of nginx's files: words, `;`, blocks, comments.
//!
//! In goes the text of one file; out come its directives, each with its place and its block, or
//! where the text is none. No meaning is known here, no other file is read, and no depth or length
//! of a text makes it anything but refused.

use std::rc::Rc;

use super::super::draft::Place;

/// nginx's own files have five levels.
const DEPTH_MAX: usize = 32;

/// More directives are no configuration, and would take minutes to look through.
const DIRECTIVES_MAX: usize = 20_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directive {
    pub(super) name: String,
    pub(super) args: Vec<String>,
    pub(super) block: Option<Vec<Self>>,
    pub(super) place: Place,
}

impl Directive {
    pub(super) fn arg(&self, index: usize) -> &str {
        self.args.get(index).map_or("", String::as_str)
    }

    pub(super) fn block(&self) -> &[Self] {
        self.block.as_deref().unwrap_or_default()
    }

    /// As it was written, for people.
    pub(super) fn shown(&self) -> String {
        let mut text = self.name.clone();
        for arg in &self.args {
            text.push(' ');
            text.push_str(arg);
        }
        match text.char_indices().nth(80) {
            Some((end, _)) => format!("{}...", &text[..end]),
            None => text,
        }
    }
}

enum Token {
    Word(String),
    End,
    Open,
    Close,
}

struct Lexer<'t> {
    rest: &'t str,
    line: usize,
}

/// A block that has not ended.
struct Level {
    directives: Vec<Directive>,
    /// The directive that it belongs to.
    words: Vec<String>,
    line: usize,
}

pub(crate) fn parse(file: &Rc<str>, text: &str) -> Result<Vec<Directive>, String> {
    let mut lexer = Lexer { rest: text, line: 1 };
    let parsed = lexer.file(file);
    parsed.map_err(|what| format!("{file}:{}: {what}", lexer.line))
}

impl Lexer<'_> {
    fn file(&mut self, file: &Rc<str>) -> Result<Vec<Directive>, String> {
        let mut levels = vec![Level { directives: Vec::new(), words: Vec::new(), line: 0 }];
        let (mut words, mut line, mut count) = (Vec::new(), 1, 0);
        while let Some(token) = self.token()? {
            match token {
                Token::Word(word) => {
                    if words.is_empty() {
                        line = self.line;
                    }
                    words.push(word);
                }
                Token::End => {
                    let words = std::mem::take(&mut words);
                    push(&mut levels, directive(words, None, file, line)?);
                }
                Token::Open if words.is_empty() => return Err("a block without a name".to_owned()),
                Token::Open if words[0].ends_with("_by_lua_block") => {
                    self.skip_lua()?;
                    let words = std::mem::take(&mut words);
                    push(&mut levels, directive(words, Some(Vec::new()), file, line)?);
                }
                Token::Open if levels.len() > DEPTH_MAX => {
                    return Err(format!("more than {DEPTH_MAX} blocks within each other"));
                }
                Token::Open => {
                    let words = std::mem::take(&mut words);
                    levels.push(Level { directives: Vec::new(), words, line });
                }
                Token::Close if !words.is_empty() => {
                    return Err(format!("{:?} is not ended by \";\"", words[0]));
                }
                Token::Close if levels.len() == 1 => return Err("unexpected \"}\"".to_owned()),
                Token::Close => {
                    if let Some(level) = levels.pop() {
                        let block = Some(level.directives);
                        push(&mut levels, directive(level.words, block, file, level.line)?);
                    }
                }
            }
            count += 1;
            if count > DIRECTIVES_MAX * 8 {
                return Err(format!("more than {} words, which no file has", DIRECTIVES_MAX * 8));
            }
        }
        match levels.pop() {
            Some(level) if levels.is_empty() && words.is_empty() => Ok(level.directives),
            _ => Err("the file ends within a block or a directive".to_owned()),
        }
    }

    fn token(&mut self) -> Result<Option<Token>, String> {
        loop {
            let Some(first) = self.peek() else { return Ok(None) };
            match first {
                c if c.is_whitespace() => self.skip(),
                '#' => {
                    let end = self.rest.find('\n').unwrap_or(self.rest.len());
                    self.rest = &self.rest[end..];
                }
                ';' | '{' | '}' => {
                    self.skip();
                    return Ok(Some(match first {
                        ';' => Token::End,
                        '{' => Token::Open,
                        _ => Token::Close,
                    }));
                }
                '"' | '\'' => return self.quoted(first).map(|word| Some(Token::Word(word))),
                _ => return Ok(Some(Token::Word(self.word()))),
            }
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String, String> {
        self.skip();
        let mut word = String::new();
        loop {
            match self.take() {
                None => return Err(format!("a text in {quote} does not end")),
                Some(c) if c == quote => return Ok(word),
                Some('\\') => self.escaped(&mut word),
                Some(c) => word.push(c),
            }
        }
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(c) = self.peek() {
            // The braces of a variable are part of the word.
            let is_end = c.is_whitespace() || c == ';' || (c == '{' && !word.ends_with('$'));
            if is_end {
                break;
            }
            self.skip();
            if c == '\\' { self.escaped(&mut word) } else { word.push(c) }
        }
        word
    }

    /// What stands for a character; any other backslash stays, as in patterns.
    fn escaped(&mut self, word: &mut String) {
        match self.take() {
            Some(c @ ('"' | '\'' | '\\')) => word.push(c),
            Some('t') => word.push('\t'),
            Some('r') => word.push('\r'),
            Some('n') => word.push('\n'),
            Some(c) => word.extend(['\\', c]),
            None => word.push('\\'),
        }
    }

    /// Up to the brace that ends a block in another language.
    fn skip_lua(&mut self) -> Result<(), String> {
        let mut depth = 1;
        while depth > 0 {
            match self.take() {
                Some('{') => depth += 1,
                Some('}') => depth -= 1,
                Some(_) => {}
                None => return Err("a block does not end".to_owned()),
            }
        }
        Ok(())
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        self.line += usize::from(c == '\n');
        Some(c)
    }

    fn skip(&mut self) {
        let _ = self.take();
    }
}

fn push(levels: &mut [Level], directive: Directive) {
    if let Some(level) = levels.last_mut() {
        level.directives.push(directive);
    }
}

fn directive(
    words: Vec<String>,
    block: Option<Vec<Directive>>,
    file: &Rc<str>,
    line: usize,
) -> Result<Directive, String> {
    let mut words = words.into_iter();
    let name = words.next().ok_or("unexpected \";\"")?;
    let place = Place { file: Rc::clone(file), line };
    Ok(Directive { name, args: words.collect(), block, place })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Directive>, String> {
        parse(&Rc::from("f"), text)
    }

    #[test]
    fn words_blocks_and_comments_are_told_apart_as_nginx_does() {
        let text = "a 1 'b c' \"d;{\" ; # no\nloc ~ \\.php$ {\n x ${y}z a#b; }";
        let read = read(text).unwrap();
        assert_eq!(read[0].args, ["1", "b c", "d;{"]);
        assert_eq!(read[1].args, ["~", r"\.php$"]);
        assert_eq!(read[1].block()[0].args, ["${y}z", "a#b"]);
        assert_eq!(read[1].block()[0].place.to_string(), "f:3");
    }

    #[test]
    fn a_text_that_is_none_is_refused_with_its_line() {
        for (text, expected) in [
            ("a;\nb {", "f:2: the file ends within"),
            ("}", "f:1: unexpected \"}\""),
            (";", "f:1: unexpected \";\""),
            ("a }", "f:1: \"a\" is not ended"),
            ("a 'b", "f:1: a text in ' does not end"),
            ("{", "f:1: a block without a name"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
        let deep = "a {".repeat(100_000);
        assert!(read(&deep).unwrap_err().contains("more than 32 blocks"));
    }

    #[test]
    fn lua_is_skipped() {
        let read = read("content_by_lua_block { if a then b = {1} end }\nc;").unwrap();
        assert_eq!((read.len(), read[1].name.as_str()), (2, "c"));
    }
}
