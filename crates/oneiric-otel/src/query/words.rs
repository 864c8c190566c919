//! The words of a text, or of a question about one, as search compares them.
//!
//! Promises: the same words whatever the database's locale is; letters of every script count; nothing but lower-case
//! words with one space between them. Stems and the commonest words of English are the database's part.

/// Characters of a word at most. What is longer is an id or an encoded value and found by its beginning.
const MAX_WORD_CHARACTERS: usize = 64;

/// Parts of a name at most. What has more is a path or a sentence with hyphens.
const MAX_NAME_PARTS: usize = 8;

/// Cuts a text into words: runs of letters and digits, `camelCase` in two. Scripts that put no space between words give
/// every pair of neighbouring characters, so that a part of a sentence is found.
pub(crate) fn words(text: &str) -> String {
    let mut words = Words::default();
    let mut before = ' ';
    for character in text.chars() {
        if is_unspaced(character) {
            words.end_word();
            words.run.push(character);
        } else {
            words.end_run();
            if is_separator(character) || (before.is_lowercase() && character.is_uppercase()) {
                words.end_word();
            }
            if !is_separator(character) {
                words.word.extend(character.to_lowercase());
            }
        }
        before = character;
    }
    words.end_run();
    words.end_word();
    words.out
}

/// As [`words`], and after them the names of several words as one: whoever asks for `Booking_Expert` or
/// `ts-order-service` means that one more than others with a part of the name.
pub(crate) fn words_and_names(text: &str) -> String {
    let mut out = words(text);
    for token in text.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '-') {
        let parts = words(token).split(' ').count();
        if !(2..=MAX_NAME_PARTS).contains(&parts) || token.chars().any(is_unspaced) {
            continue;
        }
        let name = token.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase);
        out.push(' ');
        out.extend(name.take(MAX_WORD_CHARACTERS));
    }
    out
}

#[derive(Default)]
struct Words {
    out: String,
    /// The word that has begun.
    word: String,
    /// Characters without spaces that have come one after the other.
    run: Vec<char>,
}

impl Words {
    fn end_word(&mut self) {
        let word = std::mem::take(&mut self.word);
        if word.is_empty() {
            return;
        }
        if !self.out.is_empty() {
            self.out.push(' ');
        }
        self.out.extend(word.chars().take(MAX_WORD_CHARACTERS));
    }

    fn end_run(&mut self) {
        let run = std::mem::take(&mut self.run);
        if let [single] = run.as_slice() {
            self.word.push(*single);
            self.end_word();
        }
        for pair in run.windows(2) {
            self.word.extend(pair);
            self.end_word();
        }
    }
}

/// Neither part of a word nor a mark on one of its letters.
fn is_separator(character: char) -> bool {
    if character.is_ascii() {
        return !character.is_ascii_alphanumeric();
    }
    if character.is_alphanumeric() {
        return false;
    }
    // Marks on letters are no letters themselves, and have no class of their own in the standard library: so what is
    // neither letter nor digit separates in the blocks of signs, and belongs to its word elsewhere.
    character.is_whitespace()
        || character.is_control()
        || matches!(character,
            '\u{80}'..='\u{bf}' | '\u{d7}' | '\u{f7}' | '\u{2000}'..='\u{206f}' | '\u{20a0}'..='\u{20cf}'
            | '\u{2100}'..='\u{2bff}' | '\u{2e00}'..='\u{2e7f}' | '\u{3000}'..='\u{303f}' | '\u{fe30}'..='\u{fe6f}'
            | '\u{ff00}'..='\u{ffef}' | '\u{e000}'..='\u{f8ff}' | '\u{1f000}'..='\u{1faff}')
}

/// Letters of scripts that are written without spaces: Han, kana, Thai, Lao, Burmese and Khmer.
pub(super) fn is_unspaced(character: char) -> bool {
    matches!(character,
        '\u{0e01}'..='\u{0eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3005}'..='\u{3007}'
        | '\u{3041}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}' | '\u{ff66}'..='\u{ff9d}' | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_programs_are_cut_into_words() {
        assert_eq!(words("java.util.TimeoutException at /api/v1/users"), "java util timeout exception at api v1 users");
        assert_eq!(words("  connect ECONNREFUSED #:#. "), "connect econnrefused");
        assert_eq!(words("...\0\n"), "");
        assert_eq!(words(&"x".repeat(5000)).len(), MAX_WORD_CHARACTERS);
    }

    #[test]
    fn names_of_several_words_count_as_one_too() {
        assert_eq!(
            words_and_names("Ticket_Expert calls ts-order2"),
            "ticket expert calls ts order2 ticketexpert tsorder2"
        );
        assert_eq!(words_and_names("TimeoutException - _x_ --"), "timeout exception x timeoutexception");
        assert_eq!(words_and_names("plain words, 支付-服务"), words("plain words, 支付-服务"));
    }

    #[test]
    fn letters_of_every_script_count() {
        assert_eq!(words("Überweisung: STRAẞE, größe"), "überweisung straße größe");
        assert_eq!(words("Ошибка «ОПЛАТЫ»"), "ошибка оплаты");
        assert_eq!(words("支付服务超时。"), "支付 付服 服务 务超 超时");
        assert_eq!(words("错 in 订单v2"), "错 in 订单 v2");
        // A mark belongs to its letter.
        assert_eq!(words("cafe\u{301}"), "cafe\u{301}");
    }
}
