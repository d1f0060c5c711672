"""docs/dialects/cwsandbox-v1.md against the code: every method of the table with its true status, every field of
CreateSandbox that the schema knows. usage: doc_test.py SOURCE-ROOT"""
import re
import sys
from pathlib import Path

root = Path(sys.argv[1])
doc = (root / "docs/dialects/cwsandbox-v1.md").read_text()
code = (root / "src/api/cw_v1/cw_v1.c").read_text()
proto = (root / "proto/cw_v1_sandbox.proto").read_text()
problems = []

services = dict(re.findall(r'#define (\w+_SERVICE) "/coreweave\.sandbox\.v1\.(\w+)/"', code))
in_code = {}
for define, method, rest in re.findall(r'\{\.path = (\w+_SERVICE) "(\w+)"([^}]*)\}', code):
    in_code[services[define], method] = "built" if ".message" in rest else "not built"
in_doc = {(s, m): status for s, m, status in re.findall(r"^\| (\w+Service) \| (\w+) \| (built|not built) \|", doc, re.M)}
for key in sorted(in_code.keys() | in_doc.keys()):
    if in_code.get(key) != in_doc.get(key):
        problems.append(f"{key[0]}.{key[1]}: the code says {in_code.get(key)}, the document {in_doc.get(key)}")

rows = set(re.findall(r"^\| (\w+) \| `(\w+)` \|", doc, re.M))
for message in ["CreateSandboxRequest", "Sandbox", "SandboxSpec", "Container", "SecurityContext", "Resources", "NetworkOptions"]:
    body = re.search(r"^message %s \{\n(.*?)^\}" % message, proto, re.M | re.S).group(1)
    fields = set(re.findall(r"(\w+) = \d+;", body))
    told = {f for m, f in rows if m == message}
    for field in sorted(fields ^ told):
        problems.append(f"{message}.{field}: only in the {'schema' if field in fields else 'document'}")

print("\n".join(problems) or f"{len(in_code)} methods and {len(rows)} fields agree")
sys.exit(bool(problems) or not in_code or not rows)
