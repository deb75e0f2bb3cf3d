use proptest::prelude::*;

use super::*;

type Words = Vec<Vec<u8>>;

/// What a parser makes of pieces, until it has an error.
fn parse<'p>(
    limits: Limits,
    pieces: impl IntoIterator<Item = &'p [u8]>,
) -> (Vec<Words>, Option<ProtocolError>) {
    let (mut parser, mut buffer, mut requests) = (Parser::new(limits), BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match parser.next(&mut buffer) {
                Ok(Some(request)) => requests.push(request.iter().map(<[u8]>::to_vec).collect()),
                Ok(None) => break,
                Err(error) => return (requests, Some(error)),
            }
        }
    }
    (requests, None)
}

fn whole(bytes: &[u8]) -> (Vec<Words>, Option<ProtocolError>) {
    parse(Limits::default(), [bytes])
}

fn error(bytes: &[u8]) -> Option<ProtocolError> {
    whole(bytes).1
}

fn array(words: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

const MIXED: &[u8] = b"*2\r\n$3\r\nGET\r\n$2\r\n\r\n\r\nping\r\n\r\n*0\r\n*-1\r\n*1\r\n$0\r\n\r\nset \"a b\" 'c'\n*1\r\n$4\r\nPING\r\n";

#[test]
fn arrays_inline_requests_and_what_is_skipped() {
    let words = |words: &[&str]| words.iter().map(|word| word.as_bytes().to_vec()).collect::<Words>();
    let expected = [
        words(&["GET", "\r\n"]),
        words(&["ping"]),
        words(&[""]),
        words(&["set", "a b", "c"]),
        words(&["PING"]),
    ];
    assert_eq!(whole(MIXED), (expected.to_vec(), None));
}

#[test]
fn the_cut_does_not_matter_at_any_byte() {
    for bytes in [MIXED, b"*1\r\n$4\r\nPING\r\n*2\r\n+OK\r\n", b"get 'a\r\n", b"*1\r\n$2\r\nabcd"] {
        let expected = whole(bytes);
        for cut in 0..=bytes.len() {
            let (left, right) = bytes.split_at(cut);
            assert_eq!(parse(Limits::default(), [left, right]), expected, "cut at {cut}");
        }
        assert_eq!(parse(Limits::default(), bytes.chunks(1)), expected, "byte by byte");
    }
}

#[test]
fn what_is_no_request_has_redis_words() {
    for (bytes, words) in [
        (&b"*1000000000\r\n"[..], "invalid multibulk length"),
        (b"*x\r\n", "invalid multibulk length"),
        (b"*\r\n", "invalid multibulk length"),
        (b"*99999999999999999999\r\n", "invalid multibulk length"),
        (b"*1\r\n$99999999999\r\n", "invalid bulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$1x\r\n", "invalid bulk length"),
        (b"*1\r\n:1\r\n", "expected '$', got ':'"),
        (b"*1\r\n\xff\r\n", "expected '$', got '\\xff'"),
        (b"get \"a\r\n", "unbalanced quotes in request"),
        (b"*1\r\n$2\r\nabc\r\n", "a bulk string does not end where its length says"),
    ] {
        let error = error(bytes).unwrap_or_else(|| panic!("{}", bytes.escape_ascii()));
        assert_eq!(error.to_string(), format!("Protocol error: {words}"));
    }
}

#[test]
fn lines_are_bounded_whether_they_end_or_not() {
    let limits = Limits { line_bytes: 16, ..Limits::default() };
    for (first, error) in [("", ProtocolError::Inline), ("*", ProtocolError::ArrayLine)] {
        for end in ["", "\n"] {
            let line = |len: usize| format!("{first}{}{end}", "1".repeat(len - first.len()));
            let result = |len: usize| parse(limits, [line(len).as_bytes()]).1;
            assert_ne!(result(15), Some(error));
            assert_ne!(result(16), Some(error));
            assert_eq!(result(17), Some(error), "{first:?} {end:?}");
        }
    }
    let bulk = |len: usize| parse(limits, [&b"*1\r\n"[..], format!("${}", "0".repeat(len - 1)).as_bytes()]).1;
    assert_eq!((bulk(15), bulk(16), bulk(17)), (None, None, Some(ProtocolError::BulkLine)));
    // A megabyte without an end.
    assert_eq!(error(&vec![b'x'; 1 << 20]), Some(ProtocolError::Inline));
}

#[test]
fn arguments_and_requests_are_bounded_before_their_bytes_come() {
    let limits = Limits { arguments: 3, argument_bytes: 10, request_bytes: 40, ..Limits::default() };
    let result = |bytes: &str| parse(limits, [bytes.as_bytes()]).1;
    assert_eq!((result("*2\r\n"), result("*3\r\n")), (None, None));
    assert_eq!(result("*4\r\n"), Some(ProtocolError::ArrayLength));
    assert_eq!((result("1 2\n"), result("1 2 3\n")), (None, None));
    assert_eq!(result("1 2 3 4\n"), Some(ProtocolError::ArrayLength));
    assert_eq!((result("*1\r\n$9\r\n"), result("*1\r\n$10\r\n")), (None, None));
    assert_eq!(result("*1\r\n$11\r\n"), Some(ProtocolError::BulkLength));
    // 4 and 17 bytes, then 5 and 2 around the last argument.
    let two = "*3\r\n$10\r\n0123456789\r\n";
    let last = |len: usize| result(&format!("{two}${len}\r\n"));
    assert_eq!(two.len(), 21);
    assert_eq!((last(9), result(&format!("{two}$10\r\n"))), (None, None));
    let three = format!("{two}$4\r\n0123\r\n");
    assert_eq!(three.len(), 31);
    let last = |len: usize| result(&format!("{three}${len}\r\n"));
    assert_eq!((last(2), last(3), last(4)), (None, None, Some(ProtocolError::Request)));
}

#[test]
fn nothing_is_taken_on_account_of_a_length() {
    let (mut parser, mut buffer) = (Parser::new(Limits::default()), BytesMut::new());
    buffer.extend_from_slice(b"*131072\r\n$2097152\r\n");
    assert!(parser.next(&mut buffer).unwrap().is_none());
    assert!(parser.places.capacity() == 0 && buffer.capacity() < 1 << 10);
}

#[test]
fn the_list_of_places_is_used_again_and_arguments_share_the_buffer() {
    let (mut parser, mut buffer) = (Parser::new(Limits::default()), BytesMut::new());
    buffer.extend_from_slice(b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n");
    let start = buffer.as_ptr() as usize;
    let first = parser.next(&mut buffer).unwrap().unwrap().keep(1);
    assert_eq!(first.as_ptr() as usize, start + 17);
    let places = parser.places.as_ptr();
    let second = parser.next(&mut buffer).unwrap().unwrap().keep(1);
    assert_eq!(second.as_ptr() as usize, start + 22 + 17);
    assert_eq!(parser.places.as_ptr(), places);
}

fn requests() -> impl Strategy<Value = Vec<Words>> {
    prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..6), 0..10)
}

proptest! {
    #[test]
    fn what_is_written_is_read(requests in requests(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20)) {
        let bytes: Vec<u8> = requests.iter().flat_map(|words| array(words)).collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
        prop_assert_eq!(parse(Limits::default(), pieces), (requests, None));
    }

    /// Bytes that look like requests here and there: never a panic, and the cut never matters.
    #[test]
    fn whatever_comes_is_read_alike_in_one_piece_and_in_many(
        parts in prop::collection::vec(
            prop_oneof![
                prop::sample::select(vec![
                    &b"*"[..], b"$", b"\r\n", b"\n", b"\r", b"1", b"2", b"0", b"-1", b"3", b"\"", b"'", b"\\", b" ",
                    b"*1\r\n", b"*2\r\n", b"$1\r\na\r\n", b"$3\r\nGET\r\n", b"PING\r\n", b"\\x4", b"9999999999",
                ]).prop_map(<[u8]>::to_vec),
                prop::collection::vec(any::<u8>(), 0..4),
            ],
            0..40,
        ),
        size in 1..7usize,
    ) {
        let bytes = parts.concat();
        let limits = Limits { arguments: 5, argument_bytes: 8, line_bytes: 24, request_bytes: 48 };
        prop_assert_eq!(parse(limits, bytes.chunks(size)), parse(limits, [&bytes[..]]));
    }
}
