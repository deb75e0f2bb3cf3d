//! Words of an inline request.
//!
//! Words stand between white space. In `"..."` there are escapes (`\n \r \t \b \a \xHH`, and `\` before any other byte
//! stands for that byte); in `'...'` only `\'`. A quoted word ends with its quote.

use std::ops::Range;

use crate::parse::ProtocolError;

/// Finds the words of `line`. What is quoted is unescaped in place, which only makes it shorter.
pub(crate) fn split(
    line: &mut [u8],
    limit: usize,
    words: &mut Vec<Range<usize>>,
) -> Result<(), ProtocolError> {
    let mut at = 0;
    loop {
        while line.get(at).is_some_and(|byte| is_space(*byte)) {
            at += 1;
        }
        if at == line.len() {
            return Ok(());
        }
        if words.len() == limit {
            return Err(ProtocolError::ArrayLength);
        }
        let word = word(line, &mut at)?;
        words.push(word);
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c | 0)
}

/// The word that begins at `at`, which is moved behind it.
fn word(line: &mut [u8], at: &mut usize) -> Result<Range<usize>, ProtocolError> {
    let start = *at;
    let mut end = start;
    while let Some(&byte) = line.get(*at) {
        match byte {
            b'"' | b'\'' => {
                *at += 1;
                quoted(line, byte, at, &mut end)?;
                // Nothing may stand right behind a closing quote.
                return match line.get(*at) {
                    Some(next) if !is_space(*next) => Err(ProtocolError::Quotes),
                    _ => Ok(start..end),
                };
            }
            byte if is_space(byte) => break,
            byte => {
                line[end] = byte;
                end += 1;
                *at += 1;
            }
        }
    }
    Ok(start..end)
}

/// Moves what stands before the closing quote to `end`.
fn quoted(line: &mut [u8], quote: u8, at: &mut usize, end: &mut usize) -> Result<(), ProtocolError> {
    loop {
        let rest = &line[*at..];
        let (byte, taken) = match rest {
            [] => return Err(ProtocolError::Quotes),
            [byte, ..] if *byte == quote => {
                *at += 1;
                return Ok(());
            }
            [b'\\', b'x', high, low, ..] if quote == b'"' && hex(*high).is_some() && hex(*low).is_some() => {
                (hex(*high).unwrap_or(0) << 4 | hex(*low).unwrap_or(0), 4)
            }
            [b'\\', escaped, ..] if quote == b'"' => (unescaped(*escaped), 2),
            [b'\\', b'\'', ..] => (b'\'', 2),
            [byte, ..] => (*byte, 1),
        };
        line[*end] = byte;
        *end += 1;
        *at += taken;
    }
}

fn unescaped(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[u8]) -> Result<Vec<Vec<u8>>, ProtocolError> {
        let (mut line, mut places) = (line.to_vec(), Vec::new());
        split(&mut line, 8, &mut places)?;
        Ok(places.into_iter().map(|place| line[place].to_vec()).collect())
    }

    #[test]
    fn words_stand_between_spaces_and_in_quotes() {
        let words = |line: &[u8]| words(line).unwrap();
        assert_eq!(words(b""), Vec::<Vec<u8>>::new());
        assert_eq!(words(b" \t "), Vec::<Vec<u8>>::new());
        assert_eq!(words(b"  set  a\tb "), [b"set", &b"a"[..], b"b"]);
        assert_eq!(words(br#""" '' a"#), [&b""[..], b"", b"a"]);
        assert_eq!(words(br#""a b" 'c d'"#), [b"a b", b"c d"]);
        assert_eq!(words(br#""\x41\xFf\n\r\t\b\a\"\\\q" x"#), [&b"A\xff\n\r\t\x08\x07\"\\q"[..], b"x"]);
        assert_eq!(words(br#""\xZZ""#), [b"xZZ"]);
        assert_eq!(words(br"'a\'b\n'"), [&br"a'b\n"[..]]);
        assert_eq!(words(br#"pre"quoted""#), [b"prequoted"]);
        assert_eq!(words(b"\xff\xfe x"), [&b"\xff\xfe"[..], b"x"]);
    }

    #[test]
    fn quotes_are_balanced() {
        for line in [&b"\""[..], b"'", b"\"a", b"a 'b", b"\"a\"b", b"'a'b", b"\"a\\\"", b"\"\\", b"''''"] {
            assert_eq!(words(line), Err(ProtocolError::Quotes), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn words_are_counted() {
        assert_eq!(words(b"1 2 3 4 5 6 7").unwrap().len(), 7);
        assert_eq!(words(b"1 2 3 4 5 6 7 8 ").unwrap().len(), 8);
        assert_eq!(words(b"1 2 3 4 5 6 7 8 9"), Err(ProtocolError::ArrayLength));
    }
}
