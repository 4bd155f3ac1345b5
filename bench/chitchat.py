#!/usr/bin/env python3
"""How well the default model for people chats: does it answer in the language it was spoken to, and does it recall a name?

- language: questions in English, Tagalog and Taglish; an answer counts when its words are of the language of the question, as
  ChitchatAgent itself tells it from the answer's words
- recall: a name is given, eight messages about other things follow, then the name is asked for

usage: bench/chitchat.py [--model NAME]
"""
import argparse, base64, json, os, time
from common import PORTS, fleet, machine, stream, unary

USER = "owner"

TALK = {
    "en": ["How do I keep bread fresh?", "Why is the sky blue?", "Tell me about the sea.", "I am tired today.", "What makes a good friend?",
           "How was your morning?", "Which tree grows fastest?", "Can you cheer me up?", "What should I cook tonight?", "Why do cats purr?",
           "I lost my keys again.", "What is a good name for a dog?", "How can I sleep better?", "It rains all day here.", "What is your favourite season?",
           "How do bees find flowers?", "Should I learn to swim?", "My garden looks sad.", "What do people do on a farm?", "Say something kind."],
    "tl": ["Kumusta ka ngayong araw?", "Bakit asul ang langit?", "Ano ang masarap na ulam ngayong gabi?", "Pagod na pagod ako ngayon.",
           "Paano ba magluto ng adobo?", "Ano ang ginagawa mo kapag umuulan?", "Magkwento ka tungkol sa dagat.", "Sino ang mabuting kaibigan?",
           "Nawala ang susi ko kanina.", "Ano ang magandang pangalan ng aso?"],
    "taglish": ["Pagod na ako sa work today, ano ang dapat kong gawin?", "Can you help me, hindi ko alam kung paano magluto?",
                "Ang init ng weather ngayon, ano ang magandang gawin?", "Gusto ko mag-swim pero natatakot ako, any tips?",
                "Nag-enjoy ako sa movie kagabi, ikaw ba mahilig ka sa movies?"],
}
NAMES = ["Maria", "Jonas", "Aiko", "Pedro", "Lena", "Omar", "Ruth", "Tomas", "Ines", "Karl"]
BETWEEN = [("How do I keep bread fresh?", "Keep it in a paper bag, away from the sun."), ("And cheese?", "Wrap it and put it in the fridge."),
           ("What about apples?", "A cool cellar is best."), ("Thanks.", "You are welcome.")]


def key():
    return base64.b64encode(os.urandom(16)).decode()


def turn(text, session=""):
    body = {"idempotencyKey": key(), "userId": USER, "sessionId": session, "modality": "MODALITY_TEXT", "channel": "cli", "text": text,
            "options": {"temperature": 0, "maxTokens": 48}}
    last = None
    for _, part in stream("127.0.0.1", PORTS["coordination"], "tandem.coordinator.v1.Coordinator/Submit", body):
        last = part["event"]
    if "final" not in last:
        raise SystemExit(f"a turn ended with {last}")
    return last["final"]


def recalls(name):
    """Whether the name is in the answer, after a conversation that was had before."""
    session = f"recall-{name.lower()}"
    who, port = {"userId": USER, "sessionId": session}, PORTS["memory_stack"]
    unary(port, "tandem.session.v1.Sessions/CreateSession", {"idempotencyKey": key(), "channel": "cli"} | who)
    for n, (said, answered) in enumerate([(f"My name is {name}.", "Nice to meet you!")] + BETWEEN):
        for role, text in (("user", said), ("assistant", answered)):
            entry = {"turnId": f"{n + 1:032x}", "role": role, "text": text}
            unary(port, "tandem.session.v1.Sessions/AppendTurn", {"idempotencyKey": key(), "turn": entry} | who)
    return name in turn("What is my name?", session)["text"]


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="qwen2.5-coder-1.5b")
    model = options.parse_args().model
    right, wrong = {}, []
    with fleet(model=model):
        time.sleep(20)
        for language, texts in TALK.items():
            for text in texts:
                answer = turn(text)
                said = answer["provenance"].get("language")
                fits = said == language
                right.setdefault(language, []).append(fits)
                if not fits:
                    wrong.append({"asked": text, "language": said, "answer": answer["text"][:80]})
        recalled = [recalls(name) for name in NAMES]
    every = [fits for each in right.values() for fits in each]
    share = lambda hits: round(sum(hits) / len(hits), 3)
    print(json.dumps({"machine": machine(), "model": model, "language": {k: share(v) for k, v in right.items()} | {"all": share(every), "wanted": 0.95},
                      "recall": {"share": share(recalled), "wanted": 0.9}, "wrong": wrong[:10]}, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
