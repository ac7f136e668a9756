#!/usr/bin/env bash
# Gate a release: record the baseline once, then audit every candidate against the recording.
#   BASELINE=org/instruct CANDIDATE=./checkpoint ./audit.sh
set -euo pipefail
: "${BASELINE:?name the model that users have now}" "${CANDIDATE:?name the model to release}"
recording=${RECORDING:-baseline.trust}
profile=${PROFILE:-standard}

if [ ! -f "$recording" ]; then
    pytest --trust-record="$recording" --trust-baseline="$BASELINE" --trust-profile="$profile" "$@"
fi
pytest --trust-baseline="$recording" --trust-candidate="$CANDIDATE" --trust-profile="$profile" --trust-report=trust.json --junit-xml=trust.xml "$@"
