#!/bin/sh
# Remake the lock files from the .in files. Needs `uv` (pip install uv). Run from the repository root.
# torch alone has no hash (torch.txt): its CPU wheels are on PyTorch's own index, one a platform, and a mirror may
# serve another build under the same version. Everything else is installed by hash only.
set -eu
compile() {
    uv pip compile "$@" --override requirements/leave-out.txt --python-version 3.11 --generate-hashes \
        --no-annotate --no-emit-index-url --custom-compile-command "make lock" --quiet
}
compile requirements/run.in -o requirements/run.lock
sed -n 's/^\([A-Za-z0-9._-]*==[^ ]*\).*/\1/p' requirements/run.lock > requirements/run.versions
compile requirements/test.in --constraint requirements/run.versions -o requirements/test.lock
rm requirements/run.versions
compile requirements/lm-eval.in -o requirements/lm-eval.lock
