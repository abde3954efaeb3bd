//! A text of SQL as its statements. PostgreSQL's manual, section 4.1, "Lexical Structure".
//!
//! Only as much as is needed to find the semicolons that end statements: quotes, dollar quotes, comments,
//! parentheses, and the bodies of SQL functions (`BEGIN ATOMIC … END`). What is wrong in other ways is left
//! to the database to say.

/// A statement of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement<'a> {
    /// Without the semicolon, and without white space and comments before it.
    pub text: &'a str,
    /// Bytes of the whole text before it.
    pub offset: usize,
}

impl<'a> Statement<'a> {
    /// Its first words, in lower case.
    pub fn words(&self) -> impl Iterator<Item = String> + use<'a> {
        let word = |word: &'a str| word.to_ascii_lowercase();
        self.text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty()).map(word)
    }

    /// Whether it begins or ends a transaction. Names of functions and tables are never first.
    pub fn controls_transaction(&self) -> bool {
        let mut words = self.words();
        let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        match first.as_str() {
            "begin" | "commit" | "rollback" | "end" | "abort" | "savepoint" | "release" => true,
            "start" | "prepare" => second == "transaction",
            _ => false,
        }
    }

    /// Whether it reads or changes rows, so that it has a number of them.
    pub fn counts_rows(&self) -> bool {
        const KINDS: [&str; 9] =
            ["select", "insert", "update", "delete", "merge", "with", "values", "table", "execute"];
        self.words().next().is_some_and(|first| KINDS.contains(&first.as_str()))
    }
}

/// The statements, without empty ones.
pub fn split(sql: &str) -> Vec<Statement<'_>> {
    let mut scanner = Scanner { bytes: sql.as_bytes(), at: 0 };
    let mut statements = Vec::new();
    let mut start = None;
    let (mut depth, mut atomic, mut cases) = (0_usize, false, 0_usize);
    let mut last_word = "";
    loop {
        let begin = scanner.at;
        let Some(token) = scanner.token() else { break };
        match token {
            Token::Blank => continue,
            Token::Semicolon if depth == 0 && !atomic => {
                statements.extend(start.take().map(|from| Statement { text: &sql[from..begin], offset: from }));
                (last_word, cases) = ("", 0);
                continue;
            }
            Token::Open => depth += 1,
            Token::Close => depth = depth.saturating_sub(1),
            Token::Word if depth == 0 => {
                let word = &sql[begin..scanner.at];
                let is = |other: &str| word.eq_ignore_ascii_case(other);
                if is("atomic") && last_word.eq_ignore_ascii_case("begin") {
                    atomic = true;
                } else if atomic && is("case") {
                    cases += 1;
                } else if atomic && is("end") {
                    // The end of an expression `CASE … END`, or of the body.
                    match cases {
                        0 => atomic = false,
                        _ => cases -= 1,
                    }
                }
                last_word = word;
            }
            Token::Word | Token::Semicolon | Token::Other => {}
        }
        start.get_or_insert(begin);
    }
    statements.extend(start.map(|from| Statement { text: sql[from..].trim_end(), offset: from }));
    statements
}

enum Token {
    /// White space or a comment.
    Blank,
    Semicolon,
    Open,
    Close,
    Word,
    Other,
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    fn peek(&self, ahead: usize) -> u8 {
        // NUL is in no statement; the database refuses it.
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    /// Skips one token; none at the end.
    fn token(&mut self) -> Option<Token> {
        let first = *self.bytes.get(self.at)?;
        Some(match first {
            b';' => self.one(Token::Semicolon),
            b'(' | b'[' => self.one(Token::Open),
            b')' | b']' => self.one(Token::Close),
            b'-' if self.peek(1) == b'-' => {
                self.skip_while(|byte| byte != b'\n');
                Token::Blank
            }
            b'/' if self.peek(1) == b'*' => {
                self.comment();
                Token::Blank
            }
            b'\'' => self.quoted(b'\'', false),
            b'"' => self.quoted(b'"', false),
            b'e' | b'E' if self.peek(1) == b'\'' => {
                self.at += 1;
                self.quoted(b'\'', true)
            }
            b'$' => self.dollar(),
            _ if first.is_ascii_whitespace() || first == 0x0b => {
                self.skip_while(|byte| byte.is_ascii_whitespace() || byte == 0x0b);
                Token::Blank
            }
            _ if starts_word(first) => {
                self.skip_while(|byte| starts_word(byte) || byte.is_ascii_digit() || byte == b'$');
                Token::Word
            }
            _ if first.is_ascii_digit() => {
                // `1$` and `1e` belong to the number, so that no word or dollar quote starts within it.
                self.skip_while(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                Token::Other
            }
            _ => self.one(Token::Other),
        })
    }

    fn one(&mut self, token: Token) -> Token {
        self.at += 1;
        token
    }

    fn skip_while(&mut self, wanted: impl Fn(u8) -> bool) {
        while self.bytes.get(self.at).is_some_and(|byte| wanted(*byte)) {
            self.at += 1;
        }
    }

    /// Nested, unlike in C.
    fn comment(&mut self) {
        let mut depth = 0_usize;
        while self.at < self.bytes.len() {
            match (self.peek(0), self.peek(1)) {
                (b'/', b'*') => {
                    depth += 1;
                    self.at += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return;
                    }
                }
                _ => self.at += 1,
            }
        }
    }

    /// A doubled quote ends one and starts the next, which comes to the same.
    fn quoted(&mut self, quote: u8, escapes: bool) -> Token {
        self.at += 1;
        while let Some(byte) = self.bytes.get(self.at) {
            self.at += 1;
            match *byte {
                b'\\' if escapes => self.at = (self.at + 1).min(self.bytes.len()),
                byte if byte == quote && escapes && self.peek(0) == quote => self.at += 1,
                byte if byte == quote => break,
                _ => {}
            }
        }
        Token::Other
    }

    /// `$tag$ … $tag$`, or a lone dollar, as in `$1`.
    fn dollar(&mut self) -> Token {
        let rest = &self.bytes[self.at + 1..];
        let name = rest.iter().take_while(|byte| starts_word(**byte) || byte.is_ascii_digit()).count();
        let is_tag = rest.get(name) == Some(&b'$') && !rest.first().is_some_and(u8::is_ascii_digit);
        if !is_tag {
            return self.one(Token::Other);
        }
        let tag = &self.bytes[self.at..self.at + name + 2];
        let body = self.at + tag.len();
        let end = self.bytes[body..].windows(tag.len()).position(|window| window == tag);
        self.at = end.map_or(self.bytes.len(), |end| body + end + tag.len());
        Token::Other
    }
}

fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(sql: &str, expected: &[&str]) {
        let texts: Vec<&str> = split(sql).iter().map(|statement| statement.text).collect();
        assert_eq!(texts, expected, "{sql}");
    }

    #[test]
    fn semicolons_end_statements_where_they_are_not_part_of_one() {
        check("", &[]);
        check(" ; ;; -- nothing\n /* ; */ ", &[]);
        check("SELECT 1", &["SELECT 1"]);
        check("SELECT 1; ", &["SELECT 1"]);
        check("SELECT 1;SELECT 2", &["SELECT 1", "SELECT 2"]);
        check("SELECT ';' ; SELECT 'a'';b'", &["SELECT ';' ", "SELECT 'a'';b'"]);
        check("SELECT E'\\';' ; SELECT 2", &["SELECT E'\\';' ", "SELECT 2"]);
        check("SELECT E'a'';b';SELECT 2", &["SELECT E'a'';b'", "SELECT 2"]);
        check("SELECT '\\'; SELECT 2", &["SELECT '\\'", "SELECT 2"]);
        check("SELECT \"a;b\"; SELECT 2", &["SELECT \"a;b\"", "SELECT 2"]);
        check("-- a;b\nSELECT 1; -- c", &["SELECT 1"]);
        check("/* a /* b; */ c; */ SELECT 1;x", &["SELECT 1", "x"]);
        check("SELECT $$a;b$$; SELECT $x$ $$;$y$; $x$;z", &["SELECT $$a;b$$", "SELECT $x$ $$;$y$; $x$", "z"]);
        check("SELECT $1; SELECT a$b$;c$b$", &["SELECT $1", "SELECT a$b$", "c$b$"]);
        check("SELECT 'never; ends", &["SELECT 'never; ends"]);
        check("SELECT $$never; ends", &["SELECT $$never; ends"]);
        check("/* never; ends", &[]);
        check(
            "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2); x",
            &["CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2)", "x"],
        );
        check("DO $$BEGIN PERFORM 1; END$$; x", &["DO $$BEGIN PERFORM 1; END$$", "x"]);
        check("BEGIN; SELECT 1; COMMIT;", &["BEGIN", "SELECT 1", "COMMIT"]);
        check(
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END; x",
            &["CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END", "x"],
        );
        check("SELECT 'ü;'; é", &["SELECT 'ü;'", "é"]);
    }

    #[test]
    fn statements_are_known_by_their_first_words() {
        let first = |sql: &'static str| split(sql)[0];
        for sql in ["BEGIN", "start  transaction", "COMMIT", "/* x */ END", "rollback to a", "PREPARE TRANSACTION 'x'"]
        {
            assert!(first(sql).controls_transaction(), "{sql}");
        }
        for sql in ["SELECT commit", "prepare x AS SELECT 1", "CREATE TABLE begin_(a int)", "beginning"] {
            assert!(!first(sql).controls_transaction(), "{sql}");
        }
        assert!(first("insert into t values (1)").counts_rows() && !first("CREATE TABLE t()").counts_rows());
        assert_eq!(split("a;  b")[1].offset, 4);
    }

    proptest! {
        #[test]
        fn statements_are_pieces_of_the_text_in_their_order(sql in "[;'\"$ab/*\\-\\n()é\\\\Ee1 ]{0,60}|\\PC{0,40}") {
            let mut end = 0;
            for statement in split(&sql) {
                prop_assert!(statement.offset >= end && !statement.text.is_empty());
                prop_assert_eq!(&sql[statement.offset..][..statement.text.len()], statement.text);
                end = statement.offset + statement.text.len();
            }
        }
    }
}
