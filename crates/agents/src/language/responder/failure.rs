//! An error as one spoken sentence.

use tandem_contract::pb::tandem::common::v1::ErrorInfo;
use tandem_types::reason;

use crate::language::tongue::Tongue;

/// Reason or code, then the sentence in English, Tagalog and Taglish. Reasons come before the codes that hold them.
const SENTENCES: &[(&str, [&str; 3])] = &[
    (
        reason::NO_MODEL,
        [
            "I have no language model to answer with.",
            "Wala akong language model na makasasagot.",
            "Wala akong language model na makaka-answer.",
        ],
    ),
    (
        reason::MODEL_LOADING,
        [
            "My language model is still loading. Please try again in a moment.",
            "Inihahanda pa ang aking language model. Subukan mong muli mamaya.",
            "Naglo-load pa yung language model ko. Please try again mamaya.",
        ],
    ),
    (
        reason::ENGINE_LOST,
        [
            "My language model stopped while I was answering.",
            "Tumigil ang aking language model habang sumasagot ako.",
            "Nag-stop yung language model ko habang sumasagot ako.",
        ],
    ),
    (
        reason::CONTEXT_LENGTH,
        [
            "That is more text than I can read at once.",
            "Masyadong mahaba iyon para mabasa ko nang sabay-sabay.",
            "Masyadong mahaba yung text para basahin ko all at once.",
        ],
    ),
    (
        "resource_exhausted",
        [
            "I have too much to do right now. Please try again in a moment.",
            "Marami akong ginagawa ngayon. Subukan mong muli mamaya.",
            "Ang dami kong ginagawa ngayon. Please try again mamaya.",
        ],
    ),
    (
        "deadline_exceeded",
        [
            "I could not finish the answer in time.",
            "Hindi ko natapos ang sagot sa takdang oras.",
            "Hindi ko natapos yung sagot on time.",
        ],
    ),
    (
        "unavailable",
        [
            "Something I need for this is not available right now.",
            "May kailangan ako para rito na hindi magagamit ngayon.",
            "May kailangan ako para dito na hindi available ngayon.",
        ],
    ),
    (
        "",
        [
            "Something went wrong and I could not answer.",
            "May nangyaring mali at hindi ako nakasagot.",
            "May nangyaring mali kaya hindi ako naka-answer.",
        ],
    ),
];

/// The sentence for an error.
pub(super) fn sentence(error: &ErrorInfo, tongue: Tongue) -> &'static str {
    let fits = |key: &str| key.is_empty() || key == error.reason || key == error.code;
    let found = SENTENCES.iter().find(|(key, _)| fits(key));
    let column = match tongue {
        Tongue::En => 0,
        Tongue::Tl => 1,
        Tongue::Taglish => 2,
    };
    found.map_or("", |(_, sentences)| sentences[column])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::tongue::detect;

    #[test]
    fn the_most_telling_sentence_is_chosen_and_no_error_is_silent() {
        for (code, reason, tongue, said) in [
            ("unavailable", "no_model", Tongue::En, "I have no language model to answer with."),
            ("unavailable", "peer_away", Tongue::Tl, "May kailangan ako para rito na hindi magagamit ngayon."),
            ("internal", "bug", Tongue::Taglish, "May nangyaring mali kaya hindi ako naka-answer."),
        ] {
            let error = ErrorInfo { code: code.into(), reason: reason.into(), ..Default::default() };
            assert_eq!(sentence(&error, tongue), said);
        }
    }

    #[test]
    fn english_sentences_are_english_and_tagalog_ones_are_not() {
        for (key, [en, tl, _]) in SENTENCES {
            assert_eq!(detect(en), Some(Tongue::En), "{key}");
            assert!(matches!(detect(tl), Some(Tongue::Tl | Tongue::Taglish)), "{key}: {tl}");
        }
    }
}
