//! Erasure coding of one segment on one core, beside zfec's.
//!
//! `cargo bench --bench codec [-- --json FILE]`; `TAHOEFS_BENCH_PYTHON` names a Python (default `python3`) that has
//! zfec. Rates are segment bytes per second, the median of many runs, ours and zfec's in turn.

#![expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]

use std::hint::black_box;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};
use tahoefs::codec::Codec;

const NEEDED: usize = 3;
const TOTAL: usize = 10;
const SEGMENT: usize = 1 << 20;
/// Ours and zfec's take turns this often, so that a machine that changes its pace changes it for both.
const TURNS: usize = 5;
/// Runs of ours in a turn.
const RUNS: usize = 100;
/// Runs of zfec's in a turn.
const ZFEC_RUNS: usize = 10;

/// Prints a JSON object of two lists, the seconds of each run.
const ZFEC: &str = r#"
import json, os, sys, time, zfec
k, n, size, runs = map(int, sys.argv[1:])
block = -(-size // k)
primary = [os.urandom(block) for _ in range(k)]
encoder, decoder = zfec.Encoder(k, n), zfec.Decoder(k, n)
shares = list(range(n - k, n))
def seconds(call):
    call()
    out = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        out.append(time.perf_counter() - start)
    return out
blocks = encoder.encode(primary)
given = [blocks[i] for i in shares]
assert decoder.decode(given, shares) == primary
print(json.dumps({
    "encode": seconds(lambda: encoder.encode(primary)),
    "decode": seconds(lambda: decoder.decode(given, shares)),
}))
"#;

/// The seconds that each of [`RUNS`] calls takes, after one to warm up.
fn seconds<T>(mut call: impl FnMut() -> T) -> Vec<f64> {
    black_box(call());
    let timed = |_| {
        let start = Instant::now();
        black_box(call());
        start.elapsed().as_secs_f64()
    };
    (0..RUNS).map(timed).collect()
}

/// One turn of zfec's: the seconds of encoding and of decoding.
fn zfec(python: &str) -> Result<[Vec<f64>; 2], String> {
    let arguments = [NEEDED, TOTAL, SEGMENT, ZFEC_RUNS].map(|n| n.to_string());
    let run = Command::new(python).args(["-c", ZFEC]).args(arguments).output();
    let run = run.map_err(|error| format!("{python}: {error}"))?;
    if !run.status.success() {
        let message = String::from_utf8_lossy(&run.stderr);
        return Err(format!("{python}: {}", message.lines().last().unwrap_or("failed")));
    }
    let times: Value = serde_json::from_slice(&run.stdout).map_err(|error| format!("{python}: {error}"))?;
    let list = |name: &str| times[name].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
    Ok([list("encode"), list("decode")])
}

/// MB/s (10^6 bytes) of segment at the median of `seconds`.
fn rate(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    SEGMENT as f64 / 1e6 / seconds[seconds.len() / 2]
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let json_file = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => None,
        ["--json", file] => Some(file.to_owned()),
        _ => {
            eprintln!("usage: cargo bench --bench codec [-- --json FILE]");
            std::process::exit(2);
        }
    };
    let python = std::env::var("TAHOEFS_BENCH_PYTHON").unwrap_or_else(|_| "python3".to_owned());

    let codec = Codec::get(NEEDED, TOTAL).expect("valid parameters");
    let segment: Vec<u8> = (0..SEGMENT.next_multiple_of(NEEDED)).map(|i| ((i * i) >> 7) as u8).collect();
    let primary: Vec<&[u8]> = segment.chunks(segment.len() / NEEDED).collect();
    let mut parity = codec.encode_parity(&primary);
    let blocks = parity.clone();
    let worst: Vec<(usize, &[u8])> = (TOTAL - NEEDED..TOTAL).map(|i| (i, blocks[i - NEEDED].as_slice())).collect();
    assert_eq!(codec.decode_segment(&worst).as_ref(), Ok(&segment), "what is timed is right");

    let (mut encode, mut encode_into, mut decode) = (Vec::new(), Vec::new(), Vec::new());
    let mut theirs: Result<_, String> = Ok([Vec::new(), Vec::new()]);
    for _ in 0..TURNS {
        encode.extend(seconds(|| codec.encode_parity(&primary)));
        encode_into.extend(seconds(|| codec.encode_into(&primary, &mut parity)));
        decode.extend(seconds(|| codec.decode_segment(&worst)));
        theirs = theirs.and_then(|[mut encode, mut decode]: [Vec<f64>; 2]| {
            let turn = zfec(&python)?;
            encode.extend(&turn[0]);
            decode.extend(&turn[1]);
            Ok([encode, decode])
        });
    }

    let (encode, encode_into, decode) = (rate(encode), rate(encode_into), rate(decode));
    println!("{NEEDED}-of-{TOTAL}, a segment of {SEGMENT} bytes, one core, MB/s of segment");
    println!("{:<34}{encode:>9.0}", "encode");
    println!("{:<34}{encode_into:>9.0}", "encode into buffers that are there");
    println!("{:<34}{decode:>9.0}", "decode from parity alone");
    let mut report = json!({
        "needed": NEEDED,
        "total": TOTAL,
        "segment_bytes": SEGMENT,
        "unit": "MB/s",
        "encode": encode,
        "encode_into": encode_into,
        "decode_all_parity": decode,
    });
    match theirs {
        Ok([zfec_encode, zfec_decode]) => {
            let (zfec_encode, zfec_decode) = (rate(zfec_encode), rate(zfec_decode));
            println!("{:<34}{zfec_encode:>9.0}   ours is {:.1} times that", "zfec encode", encode / zfec_encode);
            println!("{:<34}{zfec_decode:>9.0}   ours is {:.1} times that", "zfec decode", decode / zfec_decode);
            report["zfec"] = json!({
                "encode": zfec_encode,
                "decode_all_parity": zfec_decode,
                "encode_ratio": encode / zfec_encode,
                "decode_ratio": decode / zfec_decode,
            });
        }
        Err(reason) => println!("zfec was not measured: {reason}"),
    }
    if let Some(file) = json_file {
        let text = format!("{report:#}\n");
        if let Err(error) = std::fs::write(&file, text) {
            eprintln!("{file}: {error}");
            std::process::exit(1);
        }
    }
}
