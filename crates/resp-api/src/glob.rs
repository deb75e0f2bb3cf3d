//! Redis's patterns: `*`, `?`, `[abc]`, `[^a-z]`, and `\` before a byte that stands for itself.
//!
//! Only the last `*` is ever tried again, so a look at a text of n bytes with a pattern of m takes at most about n times m
//! steps, whatever they are.

/// Whether `pattern` matches all of `text`. Adds the steps that it took to `steps`.
pub(crate) fn matches(pattern: &[u8], text: &[u8], steps: &mut usize) -> bool {
    let (mut p, mut t) = (0, 0);
    // Behind the last star, and how much of the text it has taken.
    let mut star: Option<(usize, usize)> = None;
    loop {
        *steps += 1;
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, t));
            continue;
        }
        if t == text.len() {
            return p == pattern.len();
        }
        match one(&pattern[p..], text[t]) {
            Some(length) => {
                p += length;
                t += 1;
            }
            None => match &mut star {
                Some((behind, taken)) => {
                    *taken += 1;
                    (p, t) = (*behind, *taken);
                }
                None => return false,
            },
        }
    }
}

/// The length of the pattern's first part, which is no star, if it matches `byte`.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', class @ ..] => {
            let (hit, length) = in_class(class, byte);
            hit.then_some(length + 1)
        }
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [plain, ..] => (*plain == byte).then_some(1),
    }
}

/// Whether `byte` is in the class that `class` begins with, and the length of that. A class may end with the pattern.
fn in_class(class: &[u8], byte: u8) -> (bool, usize) {
    let negated = class.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut hit = false;
    loop {
        match &class[at..] {
            [] => break,
            [b']', ..] => {
                at += 1;
                break;
            }
            [b'\\', escaped, ..] => {
                hit |= *escaped == byte;
                at += 2;
            }
            [low, b'-', high, ..] => {
                hit |= (*low.min(high)..=*low.max(high)).contains(&byte);
                at += 3;
            }
            [plain, ..] => {
                hit |= *plain == byte;
                at += 1;
            }
        }
    }
    (hit != negated, at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        super::matches(pattern.as_bytes(), text.as_bytes(), &mut 0)
    }

    #[test]
    fn patterns_and_what_they_match() {
        for (pattern, yes, no) in [
            ("", &[""][..], &["a"][..]),
            ("*", &["", "a", "ab"], &[]),
            ("a", &["a"], &["", "b", "aa"]),
            ("a*", &["a", "ab", "a*"], &["", "ba"]),
            ("*a*b", &["ab", "xaxb", "aabab"], &["a", "ba", "abx"]),
            ("h?llo", &["hello", "h?llo"], &["hllo", "heello"]),
            ("h[ae]llo", &["hello", "hallo"], &["hillo", "h[ae]llo"]),
            ("h[^e]llo", &["hallo", "h^llo"], &["hello"]),
            ("h[a-c]llo", &["hallo", "hcllo"], &["hdllo", "h-llo"]),
            ("[c-a]", &["a", "b", "c"], &["d"]),
            ("[a-]", &["a", "]", "^"], &["b", "-"]),
            ("[\\]a]", &["]", "a"], &["\\"]),
            ("[]", &[], &["", "a", "]"]),
            ("[^]", &["a"], &[""]),
            ("[ab", &["a", "b"], &["c", "[ab"]),
            ("\\*", &["*"], &["a", "\\*"]),
            ("\\", &["\\"], &[""]),
            ("a\\?", &["a?"], &["ab"]),
            ("**?*", &["a", "ab"], &[""]),
        ] {
            for text in yes {
                assert!(matches(pattern, text), "{pattern:?} {text:?}");
            }
            for text in no {
                assert!(!matches(pattern, text), "{pattern:?} {text:?}");
            }
        }
    }

    #[test]
    fn a_hostile_pattern_takes_few_steps() {
        let (pattern, text) = ("a*".repeat(100) + "b", "a".repeat(4096));
        let mut steps = 0;
        assert!(!super::matches(pattern.as_bytes(), text.as_bytes(), &mut steps));
        assert!(steps <= pattern.len() * text.len(), "{steps}");
    }

    /// Every way to split the text at every star.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.first(), text) {
            (None, text) => text.is_empty(),
            (Some(b'*'), text) => (0..=text.len()).any(|taken| naive(&pattern[1..], &text[taken..])),
            (Some(_), [byte, rest @ ..]) => one(pattern, *byte).is_some_and(|n| naive(&pattern[n..], rest)),
            (Some(_), []) => false,
        }
    }

    proptest! {
        #[test]
        fn stars_match_as_if_every_split_was_tried(pattern in "[ab?*\\[\\]^\\\\-]{0,10}", text in "[ab\\]^-]{0,8}") {
            prop_assert_eq!(matches(&pattern, &text), naive(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
