//! The CBOR messages of the protocol (PROTOCOL 8.3 to 8.7), written and read by hand.
//!
//! Servers check requests strictly: sets are tag 258 around an array, keys are text. Answers come from strangers: what
//! is read is bounded by the answer's own bytes, which the transport bounds.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use minicbor::data::{Tag, Type};
use minicbor::decode::Error;
use minicbor::{Decoder, Encoder};

use crate::storage::{Allocation, ReadRange, ReadTestWriteAnswer, ServerStatus, ShareNumber, StorageError, TestWrite};

/// The tag of a mathematical finite set.
const SET: Tag = Tag::new(258);
/// The key of the only protocol version that we speak, in the answer to a version request.
const PROTOCOL: &[u8] = b"http://allmydata.org/tahoe/protocols/storage/v1";

/// More shares than any slot has on one server.
const SHARES: usize = 1024;

/// Writes a message to memory, which does not fail.
fn encoded(
    capacity: usize,
    write: impl FnOnce(&mut Encoder<Vec<u8>>) -> Result<(), minicbor::encode::Error<std::convert::Infallible>>,
) -> Bytes {
    let mut encoder = Encoder::new(Vec::with_capacity(capacity));
    match write(&mut encoder) {
        Ok(()) => encoder.into_writer().into(),
        Err(e) => unreachable!("a vector takes all that is written: {e}"),
    }
}

/// The body of an allocation.
pub(super) fn allocate(shares: &BTreeSet<ShareNumber>, size: u64) -> Bytes {
    encoded(64 + 5 * shares.len(), |e| {
        e.map(2)?.str("share-numbers")?.tag(SET)?.array(shares.len() as u64)?;
        for number in shares {
            e.u32(*number)?;
        }
        e.str("allocated-size")?.u64(size)?;
        Ok(())
    })
}

/// The body of an advisory.
pub(super) fn corrupt(reason: &str) -> Bytes {
    encoded(reason.len() + 16, |e| {
        e.map(1)?.str("reason")?.str(reason)?;
        Ok(())
    })
}

/// The body of a read-test-write.
pub(super) fn read_test_write(shares: &BTreeMap<ShareNumber, TestWrite>, read: &[ReadRange]) -> Bytes {
    let data = |s: &TestWrite| s.write.iter().map(|w| w.1.len() + 40).sum::<usize>() + 100 * s.test.len() + 64;
    encoded(64 + 40 * read.len() + shares.values().map(data).sum::<usize>(), |e| {
        e.map(2)?.str("test-write-vectors")?.map(shares.len() as u64)?;
        for (number, share) in shares {
            e.u32(*number)?.map(3)?.str("test")?.array(share.test.len() as u64)?;
            for test in &share.test {
                e.map(3)?.str("offset")?.u64(test.offset)?.str("size")?.u64(test.size)?;
                e.str("specimen")?.bytes(&test.specimen)?;
            }
            e.str("write")?.array(share.write.len() as u64)?;
            for (offset, data) in &share.write {
                e.map(2)?.str("offset")?.u64(*offset)?.str("data")?.bytes(data)?;
            }
            e.str("new-length")?;
            match share.new_length {
                Some(length) => e.u64(length)?,
                None => e.null()?,
            };
        }
        e.str("read-vector")?.array(read.len() as u64)?;
        for range in read {
            e.map(2)?.str("offset")?.u64(range.offset)?.str("size")?.u64(range.length)?;
        }
        Ok(())
    })
}

/// Reads one message, which must be all there is.
fn decoded<'b, T>(
    body: &'b [u8],
    what: &str,
    read: impl FnOnce(&mut Decoder<'b>) -> Result<T, Error>,
) -> Result<T, StorageError> {
    let mut decoder = Decoder::new(body);
    let value = read(&mut decoder).map_err(|_| StorageError::Malformed(format!("{what} is no CBOR as agreed")))?;
    if decoder.position() != body.len() {
        return Err(StorageError::Malformed(format!("bytes follow {what}")));
    }
    Ok(value)
}

/// Runs `each` for every item of an array or map whose header said `length`; `None` ends with a break.
fn items<'b>(
    decoder: &mut Decoder<'b>,
    length: Option<u64>,
    mut each: impl FnMut(&mut Decoder<'b>) -> Result<(), Error>,
) -> Result<(), Error> {
    match length {
        Some(length) => (0..length).try_for_each(|_| each(decoder)),
        None => {
            while decoder.datatype()? != Type::Break {
                each(decoder)?;
            }
            decoder.skip()
        }
    }
}

/// A set of share numbers. Those that no share of ours can have are left out: servers hold any integer.
fn numbers(decoder: &mut Decoder<'_>) -> Result<BTreeSet<ShareNumber>, Error> {
    if decoder.tag()? != SET {
        return Err(Error::message("not a set"));
    }
    let mut found = BTreeSet::new();
    let length = decoder.array()?;
    items(decoder, length, |d| {
        found.extend(ShareNumber::try_from(d.u64()?));
        Ok(())
    })?;
    Ok(found)
}

/// The answer to a list request.
pub(super) fn shares(body: &[u8]) -> Result<BTreeSet<ShareNumber>, StorageError> {
    decoded(body, "the list of shares", numbers)
}

/// The answer to an allocation.
pub(super) fn allocation(body: &[u8]) -> Result<Allocation, StorageError> {
    decoded(body, "the answer to an allocation", |d| {
        let (mut already_have, mut allocated) = (None, None);
        let length = d.map()?;
        items(d, length, |d| {
            match d.str()? {
                "already-have" => already_have = Some(numbers(d)?),
                "allocated" => allocated = Some(numbers(d)?),
                _ => d.skip()?,
            }
            Ok(())
        })?;
        let missing = || Error::message("a set is missing");
        Ok(Allocation { already_have: already_have.ok_or_else(missing)?, allocated: allocated.ok_or_else(missing)? })
    })
}

/// The answer to a version request.
pub(super) fn version(body: &[u8]) -> Result<ServerStatus, StorageError> {
    let status = decoded(body, "the server's version", |d| {
        let mut status = None;
        let length = d.map()?;
        items(d, length, |d| {
            if d.bytes()? == PROTOCOL {
                status = Some(limits(d)?)
            } else {
                d.skip()?
            }
            Ok(())
        })?;
        Ok(status)
    })?;
    status.ok_or_else(|| StorageError::Malformed("the server speaks another version of the protocol".into()))
}

fn limits(decoder: &mut Decoder<'_>) -> Result<ServerStatus, Error> {
    let (mut immutable, mut mutable, mut space) = (None, None, None);
    let length = decoder.map()?;
    items(decoder, length, |d| {
        match d.bytes()? {
            b"maximum-immutable-share-size" => immutable = Some(d.u64()?),
            b"maximum-mutable-share-size" => mutable = Some(d.u64()?),
            b"available-space" => space = Some(d.u64()?),
            _ => d.skip()?,
        }
        Ok(())
    })?;
    let missing = || Error::message("a limit is missing");
    Ok(ServerStatus {
        maximum_immutable_share_size: immutable.ok_or_else(missing)?,
        maximum_mutable_share_size: mutable.ok_or_else(missing)?,
        available_space: space.ok_or_else(missing)?,
    })
}

/// The answer to a read-test-write with the read vector `reads`. Its data are parts of `body`.
pub(super) fn read_test_write_answer(body: &Bytes, reads: &[ReadRange]) -> Result<ReadTestWriteAnswer, StorageError> {
    decoded(body, "the answer to a read-test-write", |d| {
        let (mut success, mut data) = (None, None);
        let length = d.map()?;
        items(d, length, |d| {
            match d.str()? {
                "success" => success = Some(d.bool()?),
                "data" => data = Some(read_data(d, body, reads)?),
                _ => d.skip()?,
            }
            Ok(())
        })?;
        let missing = || Error::message("a part is missing");
        Ok(ReadTestWriteAnswer { success: success.ok_or_else(missing)?, data: data.ok_or_else(missing)? })
    })
}

fn read_data<'b>(
    decoder: &mut Decoder<'b>,
    body: &Bytes,
    reads: &[ReadRange],
) -> Result<BTreeMap<ShareNumber, Vec<Bytes>>, Error> {
    let mut data = BTreeMap::new();
    let length = decoder.map()?;
    items(decoder, length, |d| {
        let number = ShareNumber::try_from(d.u64()?);
        if data.len() == SHARES {
            return Err(Error::message("more shares than a slot has"));
        }
        let mut found = Vec::with_capacity(reads.len());
        let length = d.array()?;
        items(d, length, |d| {
            let read = reads.get(found.len()).ok_or_else(|| Error::message("more reads than asked for"))?;
            found.push(piece(d, body, read.length)?);
            Ok(())
        })?;
        if found.len() != reads.len() {
            return Err(Error::message("fewer reads than asked for"));
        }
        if let Ok(number) = number {
            data.insert(number, found);
        }
        Ok(())
    })?;
    Ok(data)
}

/// A byte string of at most `limit` bytes, whole or in parts.
fn piece<'b>(decoder: &mut Decoder<'b>, body: &Bytes, limit: u64) -> Result<Bytes, Error> {
    let fits = |length: usize| match length as u64 <= limit {
        true => Ok(()),
        false => Err(Error::message("more bytes than asked for")),
    };
    if decoder.datatype()? == Type::Bytes {
        let piece = decoder.bytes()?;
        fits(piece.len())?;
        return Ok(body.slice_ref(piece));
    }
    let mut joined = Vec::new();
    for part in decoder.bytes_iter()? {
        let part = part?;
        fits(joined.len() + part.len())?;
        joined.extend_from_slice(part);
    }
    Ok(joined.into())
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::storage::TestVector;

    /// What a real server was sent and answered, by the name of the exchange.
    fn recorded(name: &str, side: &str) -> Bytes {
        let all: Value = serde_json::from_str(include_str!("../../../tests/data/gbs.json")).expect("JSON");
        let examples = all["examples"].as_array().expect("a list");
        let one = examples.iter().find(|e| e["name"] == name).unwrap_or_else(|| panic!("no exchange {name:?}"));
        HEXLOWER.decode(one[side]["body_hex"].as_str().expect("a body").as_bytes()).expect("hex").into()
    }

    fn set(numbers: &[ShareNumber]) -> BTreeSet<ShareNumber> {
        numbers.iter().copied().collect()
    }

    /// A read vector of ranges of these lengths.
    fn reads(lengths: &[u64]) -> Vec<ReadRange> {
        lengths.iter().map(|&length| ReadRange { offset: 0, length }).collect()
    }

    fn all_answers(body: &Bytes, reads: &[ReadRange]) -> [bool; 4] {
        let read = read_test_write_answer(body, reads);
        for (read, range) in read.iter().flat_map(|a| a.data.values()).flat_map(|found| found.iter().zip(reads)) {
            assert!(read.len() as u64 <= range.length);
        }
        [shares(body).is_ok(), allocation(body).is_ok(), version(body).is_ok(), read.is_ok()]
    }

    #[test]
    fn requests_are_as_a_server_takes_them() {
        let allocation = "allocate shares 1 and 7 (48 bytes each)";
        assert_eq!(allocate(&set(&[1, 7]), 48), recorded(allocation, "request"));
        let create = TestWrite {
            test: vec![TestVector { offset: 0, size: 1, specimen: Bytes::new() }],
            write: vec![(0, Bytes::from_static(b"0123456789"))],
            new_length: Some(10),
        };
        let read = [ReadRange { offset: 0, length: 5 }];
        assert_eq!(read_test_write(&BTreeMap::from([(3, create)]), &read), recorded("rtw create share 3", "request"));
    }

    #[test]
    fn answers_of_a_server_are_understood() {
        let status = version(&recorded("version", "response")).unwrap();
        assert_eq!(status.maximum_mutable_share_size, crate::storage::MAXIMUM_MUTABLE_SHARE_SIZE);
        assert_eq!(status.available_space, status.maximum_immutable_share_size);
        let answer = allocation(&recorded("allocate again after 7 complete, 1 in progress", "response")).unwrap();
        assert_eq!(answer, Allocation { already_have: set(&[7]), allocated: set(&[]) });
        assert_eq!(shares(&recorded("list shares after share 7 complete", "response")).unwrap(), set(&[7]));
        assert_eq!(shares(&recorded("list shares, unknown si", "response")).unwrap(), set(&[]));
        let answer = read_test_write_answer(&recorded("rtw create share 3", "response"), &reads(&[5])).unwrap();
        assert_eq!(answer, ReadTestWriteAnswer { success: true, data: BTreeMap::new() });
    }

    #[test]
    fn hostile_lengths_take_no_memory() {
        // A set, a map, a byte string that claim 2^60 items.
        for body in ["d901029b1000000000000000", "bb1000000000000000", "5b1000000000000000", "9f9f9f9f9f", ""] {
            let body = Bytes::from(HEXLOWER.decode(body.as_bytes()).unwrap());
            assert!(shares(&body).is_err() && allocation(&body).is_err() && version(&body).is_err());
            assert!(read_test_write_answer(&body, &reads(&[1])).is_err());
        }
        assert!(shares(&HEXLOWER.decode(b"8101").unwrap()).is_err(), "an array is no set");
        assert!(shares(&HEXLOWER.decode(b"d90102810100").unwrap()).is_err(), "nothing may follow");
        assert_eq!(shares(&HEXLOWER.decode(b"d901029f0102ff").unwrap()).unwrap(), set(&[1, 2]));
    }

    #[test]
    fn reads_that_were_not_asked_for_end_the_reading() {
        let answer =
            |data: &str| HEXLOWER.decode(format!("a26773756363657373f56464617461a100{data}").as_bytes()).unwrap();
        let read = |data: &str| read_test_write_answer(&answer(data).into(), &reads(&[2, 3]));
        let found = |a: &'static [u8], b: &'static [u8]| vec![Bytes::from_static(a), Bytes::from_static(b)];
        assert_eq!(read("8242616243636465").unwrap().data[&0], found(b"ab", b"cde"));
        assert_eq!(read("9f5f41614162ff5f4043636465ffff").unwrap().data[&0], found(b"ab", b"cde"));
        // Too long, too long in parts, too many, too few, text, and something after it.
        let others =
            ["824361626340", "82404463646566", "825f416141624163ff40", "83404040", "8140", "80", "826140", "8240400a"];
        for other in others {
            assert!(read(other).is_err(), "{other}");
        }
        // A million pieces of nothing are not gathered before they are counted.
        let mut many = vec![0xba, 0, 0, 0, 1, 0, 0x9a, 0, 0x10, 0, 0];
        many.resize(many.len() + (1 << 20), 0x40);
        let body = Bytes::from(many);
        let mut decoder = Decoder::new(&body);
        assert!(read_data(&mut decoder, &body, &reads(&[2, 3])).is_err());
        assert!(decoder.position() < 20);
        // Nor are more shares than there can be.
        let mut many = vec![0xbf];
        (0..100_000u32).for_each(|n| many.extend([&[0x1a][..], &n.to_be_bytes(), &[0x80]].concat()));
        let body = Bytes::from(many);
        let mut decoder = Decoder::new(&body);
        assert!(read_data(&mut decoder, &body, &[]).is_err());
        assert!(decoder.position() < 6 * (SHARES + 2));
    }

    proptest! {
        #[test]
        fn arbitrary_answers_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            all_answers(&bytes.into(), &reads(&[1, 1000]));
        }

        #[test]
        fn spoilt_answers_do_not_panic(
            spoils in prop::collection::vec((0usize..400, any::<u8>()), 0..4),
            cut in 0usize..400,
            whole: bool,
        ) {
            let names = [
                "version",
                "list shares after share 7 complete",
                "allocate again after 7 complete, 1 in progress",
                "rtw good test then write, read is pre-write",
            ];
            for (i, name) in names.into_iter().enumerate() {
                let mut body = recorded(name, "response").to_vec();
                for (at, byte) in &spoils {
                    let at = at % body.len();
                    body[at] = *byte;
                }
                if !whole {
                    body.truncate(cut % body.len());
                }
                let understood = all_answers(&body.into(), &reads(&[10]));
                let kind = [2, 0, 1, 3][i];
                // A part of a message is none, unless another length was written into it.
                prop_assert!(!spoils.is_empty() || understood[kind] == whole);
            }
        }
    }
}
