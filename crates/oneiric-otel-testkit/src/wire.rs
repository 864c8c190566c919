//! Protobuf changed field by field, at any depth: what no writer makes and every reader must read, or refuse, alike.
//!
//! Lengths around a change are written anew, so that what comes out is a message unless the change itself says otherwise:
//! fields in any order, again, missing, unknown or with another wire type, numbers and lengths with more bytes than they
//! need, groups, bytes that are no text.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use prost::encoding::{decode_varint, encode_varint};

/// A span lies three messages deep in a request, and its values two or more messages deeper.
const DEPTH: usize = 8;

/// A change of one message in a message.
#[derive(Debug, Clone)]
pub struct Change {
    /// Which submessage, at each level.
    path: Vec<Index>,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// Copies a field to another place.
    Repeat(Index, Index),
    /// Moves a field to another place.
    Move(Index, Index),
    Remove(Index),
    Insert(Field, Index),
    /// Gives a field another number and keeps the rest.
    Renumber(Index, u32),
    /// Gives a field another content, of another wire type perhaps.
    Replace(Index, Content),
    /// Writes key and length or number with so many more bytes than they need.
    Lengthen(Index, u8, u8),
}

#[derive(Debug, Clone)]
struct Field {
    number: u32,
    content: Content,
    /// More bytes than needed: of the key, and of the length or number.
    more: (u8, u8),
}

#[derive(Debug, Clone)]
enum Content {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(Vec<u8>),
    Fixed32([u8; 4]),
    /// With these bytes before its end.
    Group(Vec<u8>),
}

impl Change {
    /// The message changed; as it is where nothing of it can be changed so.
    pub fn apply(&self, message: &[u8]) -> Vec<u8> {
        self.apply_at(&self.path, message).unwrap_or_else(|| message.to_vec())
    }

    fn apply_at(&self, path: &[Index], message: &[u8]) -> Option<Vec<u8>> {
        let mut fields = parse(message)?;
        let deeper = path.split_first().and_then(|(which, rest)| {
            let submessages: Vec<usize> = (0..fields.len()).filter(|at| fields[*at].submessage().is_some()).collect();
            let at = *submessages.get(which.index(submessages.len().max(1)))?;
            Some((at, self.apply_at(rest, fields[at].submessage()?)?))
        });
        match deeper {
            Some((at, changed)) => fields[at].content = Content::Bytes(changed),
            None => self.kind.apply(&mut fields),
        }
        let mut out = Vec::new();
        for field in fields {
            field.encode(&mut out);
        }
        Some(out)
    }
}

impl Kind {
    fn apply(&self, fields: &mut Vec<Field>) {
        let place = |index: &Index, fields: &[Field]| index.index(fields.len() + 1);
        if let Self::Insert(field, at) = self {
            return fields.insert(place(at, fields), field.clone());
        }
        if fields.is_empty() {
            return;
        }
        let of = |index: &Index| index.index(fields.len());
        match self {
            Self::Insert(..) => {}
            Self::Repeat(from, to) => {
                let field = fields[of(from)].clone();
                fields.insert(place(to, fields), field);
            }
            Self::Move(from, to) => {
                let field = fields.remove(of(from));
                fields.insert(place(to, fields), field);
            }
            Self::Remove(at) => drop(fields.remove(of(at))),
            Self::Renumber(at, number) => {
                let at = of(at);
                fields[at].number = *number;
            }
            Self::Replace(at, content) => {
                let at = of(at);
                fields[at].content = content.clone();
            }
            Self::Lengthen(at, key, value) => {
                let at = of(at);
                fields[at].more = (*key, *value);
            }
        }
    }
}

impl Field {
    fn submessage(&self) -> Option<&[u8]> {
        match &self.content {
            Content::Bytes(bytes) if parse(bytes).is_some() => Some(bytes),
            _ => None,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let key = |wire_type: u64| u64::from(self.number) << 3 | wire_type;
        let (more_key, more) = self.more;
        match &self.content {
            Content::Varint(number) => {
                varint(key(0), more_key, out);
                varint(*number, more, out);
            }
            Content::Fixed64(bytes) => {
                varint(key(1), more_key, out);
                out.extend_from_slice(bytes);
            }
            Content::Bytes(bytes) => {
                varint(key(2), more_key, out);
                varint(bytes.len() as u64, more, out);
                out.extend_from_slice(bytes);
            }
            Content::Fixed32(bytes) => {
                varint(key(5), more_key, out);
                out.extend_from_slice(bytes);
            }
            Content::Group(bytes) => {
                varint(key(3), more_key, out);
                out.extend_from_slice(bytes);
                varint(key(4), more, out);
            }
        }
    }
}

/// Writes a number with so many more bytes than it needs, which beyond ten no reader takes.
fn varint(number: u64, more: u8, out: &mut Vec<u8>) {
    encode_varint(number, out);
    if more > 0
        && let Some(last) = out.last_mut()
    {
        *last |= 0x80;
        out.extend(std::iter::repeat_n(0x80, usize::from(more) - 1));
        out.push(0);
    }
}

/// The fields of a message; None for what is none, or has a group.
fn parse(mut message: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let key = decode_varint(&mut message).ok()?;
        let number = u32::try_from(key >> 3).ok().filter(|number| *number > 0)?;
        let content = match key & 7 {
            0 => Content::Varint(decode_varint(&mut message).ok()?),
            1 => {
                let (bytes, rest) = message.split_first_chunk()?;
                message = rest;
                Content::Fixed64(*bytes)
            }
            2 => {
                let length = usize::try_from(decode_varint(&mut message).ok()?).ok()?;
                let (bytes, rest) = message.split_at_checked(length)?;
                message = rest;
                Content::Bytes(bytes.to_vec())
            }
            5 => {
                let (bytes, rest) = message.split_first_chunk()?;
                message = rest;
                Content::Fixed32(*bytes)
            }
            _ => return None,
        };
        fields.push(Field { number, content, more: (0, 0) });
    }
    Some(fields)
}

/// A few changes, to be made one after the other.
pub fn changes() -> impl Strategy<Value = Vec<Change>> {
    vec(change(), 0..4)
}

/// A change of any kind.
pub fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    let kind = prop_oneof![
        2 => (at(), at()).prop_map(|(from, to)| Kind::Repeat(from, to)),
        2 => (at(), at()).prop_map(|(from, to)| Kind::Move(from, to)),
        1 => at().prop_map(Kind::Remove),
        2 => (field(), at()).prop_map(|(field, at)| Kind::Insert(field, at)),
        1 => (at(), number()).prop_map(|(at, number)| Kind::Renumber(at, number)),
        2 => (at(), content()).prop_map(|(at, content)| Kind::Replace(at, content)),
        1 => (at(), 0..3_u8, 0..11_u8).prop_map(|(at, key, value)| Kind::Lengthen(at, key, value)),
    ];
    (vec(at(), 0..DEPTH), kind).prop_map(|(path, kind)| Change { path, kind })
}

fn field() -> impl Strategy<Value = Field> {
    (number(), content()).prop_map(|(number, content)| Field { number, content, more: (0, 0) })
}

/// The number of a field, mostly a known one. 0 is that of none.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 1..18_u32, 1 => 18..70_u32, 1 => Just(0), 1 => Just((1 << 29) - 1)]
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        2 => prop_oneof![0..8_u64, any::<u64>(), any::<i32>().prop_map(|number| u64::from(number as u32))]
            .prop_map(Content::Varint),
        1 => any::<[u8; 8]>().prop_map(Content::Fixed64),
        1 => any::<[u8; 4]>().prop_map(Content::Fixed32),
        3 => prop_oneof![Just(Vec::new()), vec(any::<u8>(), 0..17), "[a-c\0]{0,3}".prop_map(String::into_bytes)]
            .prop_map(Content::Bytes),
        1 => prop_oneof![Just(Vec::new()), vec(any::<u8>(), 0..4)].prop_map(Content::Group),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field of bytes, with a number and a fixed number in it, and a number.
    const MESSAGE: [u8; 12] = [0x0a, 7, 0x10, 1, 0x1d, 1, 2, 3, 4, 0x20, 0x96, 1];

    #[test]
    fn a_message_that_is_taken_apart_is_put_together_again() {
        let mut out = Vec::new();
        parse(&MESSAGE).unwrap().iter().for_each(|field| field.encode(&mut out));
        assert_eq!(out, MESSAGE);
        assert!(parse(&[0x0a, 7]).is_none());
        assert!(parse(&[0x0b, 0x0c]).is_none());
    }

    #[test]
    fn a_number_with_more_bytes_than_it_needs_is_the_same_number() {
        for more in 0..8 {
            let mut out = Vec::new();
            varint(300, more, &mut out);
            assert_eq!(out.len(), 2 + usize::from(more));
            assert_eq!(decode_varint(&mut out.as_slice()), Ok(300));
        }
    }

    proptest! {
        #[test]
        fn what_is_around_a_change_stays_a_message(from in any::<Index>(), to in any::<Index>(), which in any::<Index>()) {
            let path = vec![which];
            let changed = Change { path: path.clone(), kind: Kind::Repeat(from, to) }.apply(&MESSAGE);
            let fields = parse(&changed).unwrap();
            prop_assert_eq!(fields.len(), 2);
            prop_assert_eq!(fields[0].submessage().and_then(parse).map(|fields| fields.len()), Some(3));
            let removed = Change { path, kind: Kind::Remove(from) }.apply(&MESSAGE);
            prop_assert!(removed.len() < MESSAGE.len() && parse(&removed).is_some());
        }
    }
}
