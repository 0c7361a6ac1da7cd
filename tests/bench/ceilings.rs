//! What one core can do at most: the rates of each kernel, and what follows for whole files.
//!
//! `cargo bench --bench ceilings [-- --json FILE]`. Rates are medians; MB is 10^6 bytes. An upload or download passes
//! each byte through several kernels one after the other, so the seconds a byte takes are the sum of theirs.

#![expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]

use std::hint::black_box;
use std::time::Instant;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tahoefs::codec::Codec;
use tahoefs::crypto::{AesCtr, SigningKey, VerifyKey};
use tahoefs::util::Rng;

/// Bytes that a kernel is given at a time.
const BLOCK: usize = 1 << 20;
/// The codes that are measured, (k, N).
const CODES: [(usize, usize); 2] = [(3, 10), (3, 5)];
/// All kernels take turns this often, so that a machine that changes its pace changes it for all.
const TURNS: usize = 7;
/// Timed runs of a fast kernel in a turn. Each is short, so that the median is hardly touched by other processes.
const RUNS: usize = 60;
/// New keys in a turn: how long one takes is luck, so their mean counts.
const KEYS: usize = 6;

/// The seconds of single runs of one kernel.
#[derive(Default)]
struct Timed(Vec<f64>);

impl Timed {
    /// Times `runs` calls, after one to warm up.
    fn turn<T>(&mut self, runs: usize, mut call: impl FnMut() -> T) {
        black_box(call());
        for _ in 0..runs {
            let start = Instant::now();
            black_box(call());
            self.0.push(start.elapsed().as_secs_f64());
        }
    }

    /// Times `calls` calls as one run: their mean.
    fn mean_turn<T>(&mut self, calls: usize, mut call: impl FnMut() -> T) {
        let start = Instant::now();
        for _ in 0..calls {
            black_box(call());
        }
        self.0.push(start.elapsed().as_secs_f64() / calls as f64);
    }

    /// The median, in seconds.
    fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }

    /// Runs a second at the median.
    fn a_second(&self) -> f64 {
        1.0 / self.median()
    }

    /// MB/s at the median, where a run takes [`BLOCK`] bytes.
    fn megabytes(&self) -> f64 {
        BLOCK as f64 / 1e6 / self.median()
    }
}

/// One (k, N) with a segment to code.
struct Coding {
    needed: usize,
    total: usize,
    codec: std::sync::Arc<Codec>,
    /// The k primary blocks one after the other.
    segment: Vec<u8>,
    parity: Vec<Vec<u8>>,
    encode: Timed,
    decode: Timed,
}

impl Coding {
    fn new(needed: usize, total: usize, rng: &Rng) -> Coding {
        let codec = Codec::get(needed, total).expect("valid parameters");
        let mut segment = vec![0; BLOCK.next_multiple_of(needed)];
        rng.fill(&mut segment);
        let parity = codec.encode_parity(&segment.chunks(segment.len() / needed).collect::<Vec<_>>());
        Coding { needed, total, codec, segment, parity, encode: Timed::default(), decode: Timed::default() }
    }

    /// Encoding, and decoding with as few primary blocks as the code allows.
    fn turn(&mut self) {
        let primary: Vec<&[u8]> = self.segment.chunks(self.segment.len() / self.needed).collect();
        let parity = self.parity.clone();
        let all = primary.iter().copied().chain(parity.iter().map(Vec::as_slice));
        let last: Vec<(usize, &[u8])> = all.enumerate().skip(self.total - self.needed).collect();
        assert_eq!(self.codec.decode_segment(&last).as_ref(), Ok(&self.segment), "what is timed is right");
        self.encode.turn(RUNS, || self.codec.encode_into(&primary, &mut self.parity));
        self.decode.turn(RUNS, || self.codec.decode_segment(&last));
    }

    /// The rates of this code and the ceilings that follow, given the MB/s of hashing and of encryption.
    ///
    /// An uploaded byte is hashed for the ciphertext segment and for the whole ciphertext, N/k times in blocks, and
    /// once more for the convergent key; it is encrypted once and coded once. A downloaded one is hashed in a block
    /// and in a ciphertext segment and decrypted; coding is needed only where primary blocks are missing.
    fn report(&self, sha: f64, aes: f64) -> Value {
        let (encode, decode) = (self.encode.megabytes(), self.decode.megabytes());
        let blocks = self.total as f64 / self.needed as f64;
        let upload = |passes: f64| 1.0 / ((passes + blocks) / sha + 1.0 / aes + 1.0 / encode);
        let download = |coding: f64| 1.0 / (2.0 / sha + 1.0 / aes + coding);
        json!({
            "encode": encode,
            "decode_worst": decode,
            "upload_sha256_passes": 3.0 + blocks,
            "upload_convergent": upload(3.0),
            "upload_random_key": upload(2.0),
            "download_sha256_passes": 2.0,
            "download": download(0.0),
            "download_worst": download(1.0 / decode),
        })
    }
}

fn measure() -> Value {
    let rng = Rng::os();
    let mut data = vec![0; BLOCK];
    rng.fill(&mut data);
    let mut cipher = AesCtr::new(&rng.bytes());
    let mut codings = CODES.map(|(needed, total)| Coding::new(needed, total, &rng));
    let key = SigningKey::generate(&rng);
    let public = VerifyKey::from_spki_der(key.spki_der()).expect("our own public key loads");
    let signature = key.sign(&rng, b"message");
    assert!(public.verify(b"message", &signature), "what is timed is right");

    let [mut sha, mut aes, mut sign, mut verify, mut generate] = std::array::from_fn(|_| Timed::default());
    for _ in 0..TURNS {
        sha.turn(RUNS, || Sha256::digest(&data));
        aes.turn(RUNS, || cipher.apply(&mut data));
        codings.iter_mut().for_each(Coding::turn);
        sign.turn(RUNS, || key.sign(&rng, b"message"));
        verify.turn(RUNS, || public.verify(b"message", &signature));
        generate.mean_turn(KEYS, || SigningKey::generate(&rng));
    }

    let (sha, aes) = (sha.megabytes(), aes.megabytes());
    let codes: serde_json::Map<String, Value> =
        codings.iter().map(|c| (format!("{}-of-{}", c.needed, c.total), c.report(sha, aes))).collect();
    json!({
        "unit": "MB/s of 10^6 bytes, one core, hashes not interleaved; RSA in operations a second",
        "optimised": !cfg!(debug_assertions),
        "sha256": sha,
        "aes_128_ctr": aes,
        "rsa_2048_sign": sign.a_second(),
        "rsa_2048_verify": verify.a_second(),
        "rsa_2048_generate": generate.a_second(),
        "codes": codes,
    })
}

fn print(report: &Value) {
    let line = |name: &str, value: &Value, unit: &str| {
        println!("{name:<44}{:>10.0}  {unit}", value.as_f64().unwrap_or(f64::NAN));
    };
    println!("One core, medians, hashes not interleaved, MB = 10^6 bytes");
    line("SHA-256, messages of 1 MiB", &report["sha256"], "MB/s");
    line("AES-128-CTR", &report["aes_128_ctr"], "MB/s");
    line("RSA-2048 sign", &report["rsa_2048_sign"], "a second");
    line("RSA-2048 verify", &report["rsa_2048_verify"], "a second");
    line("RSA-2048 new key", &report["rsa_2048_generate"], "a second");
    for (name, code) in report["codes"].as_object().into_iter().flatten() {
        let passes = |key: &str| code[key].as_f64().unwrap_or(f64::NAN);
        println!("{name}");
        line("  encode", &code["encode"], "MB/s");
        line("  decode, fewest primary blocks", &code["decode_worst"], "MB/s");
        println!(
            "  upload = 1 / ({:.2}/sha + 1/aes + 1/encode), download = 1 / ({:.0}/sha + 1/aes)",
            passes("upload_sha256_passes"),
            passes("download_sha256_passes")
        );
        line("  upload, convergent: at most", &code["upload_convergent"], "MB/s");
        line("  upload, random key: at most", &code["upload_random_key"], "MB/s");
        line("  download: at most", &code["download"], "MB/s");
        line("  download, fewest primary blocks: at most", &code["download_worst"], "MB/s");
    }
    if report["optimised"] == false {
        println!("These are figures of a build without optimisation: they are no ceilings.");
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let json_file = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => None,
        ["--json", file] => Some(file.to_owned()),
        _ => {
            eprintln!("usage: cargo bench --bench ceilings [-- --json FILE]");
            std::process::exit(2);
        }
    };
    let report = measure();
    print(&report);
    if let Some(file) = json_file
        && let Err(error) = std::fs::write(&file, format!("{report:#}\n"))
    {
        eprintln!("{file}: {error}");
        std::process::exit(1);
    }
}
