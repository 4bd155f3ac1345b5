//! The page is built by other tools and checked in; without it there is nothing to embed.

fn main() {
    println!("cargo:rerun-if-changed=../../web/dist");
    if !std::path::Path::new("../../web/dist/index.html").is_file() {
        println!(
            "cargo:error=web/dist/index.html is missing: check it out again, or build it with `npm ci && npm run build` in web/"
        );
        std::process::exit(1);
    }
}
