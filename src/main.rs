//! The `tahoefs` program.

fn main() -> std::process::ExitCode {
    tahoefs::cli::main(std::env::args_os())
}
