#!/usr/bin/env bash
# One real turn with a running fleet: the question, the answer as it is written, the path it took, the page.
# usage: scripts/first-turn.sh PATH_OF_TANDEM
set -euo pipefail

tandem=$1
question="What can you do?"

echo
echo "> $question"
"$tandem" ask --path "$question"
echo
# A fleet may have no page.
"$tandem" status | grep '^page: ' || true
echo "$tandem ask \"...\" asks more, $tandem status shows what runs, make down ends it"
