"""Drops dependencies that a crate does not name, by .ci/arrows.py's own rule; then says what .ci/arrows.py would."""
import re,pathlib,sys,tomllib
NOT={"regex-syntax","futures","futures-util","temporalio-common","temporalio-workflow","temporalio-macros"}
for c in sys.argv[1:]:
    p=pathlib.Path(c)/'Cargo.toml'; src='\n'.join(f.read_text() for f in pathlib.Path(c).glob('**/*.rs'))
    out=[]
    for l in p.read_text().splitlines():
        m=re.match(r'([\w-]+)\.workspace = true$',l)
        if m and m[1] not in NOT and m[1] not in('version','edition','rust-version','license','publish') and not re.search(rf"\b{m[1].replace('-','_')}\b",src): print(c,'no longer needs',m[1]); continue
        out.append(l)
    p.write_text('\n'.join(out)+'\n')
ns={}
allowed=re.search(r'ALLOWED = \{.*?^\}',pathlib.Path('.ci/arrows.py').read_text(),re.S|re.M).group(0); exec(allowed,ns)
for m in tomllib.load(open('Cargo.toml','rb'))['workspace']['members']:
    t=tomllib.load(open(f'{m}/Cargo.toml','rb')); src='\n'.join(f.read_text() for f in pathlib.Path(m).glob('**/*.rs'))
    if m not in ns['ALLOWED']: print('ARROWS: unknown crate',m); continue
    for k in('dependencies','dev-dependencies'):
        for d in t.get(k,{}):
            if not re.search(rf"\b{d.replace('-','_')}\b",src) and d not in NOT: print('ARROWS:',m,'does not use',d)
            if k=='dependencies' and d.startswith('waybill-') and d[8:] not in ns['ALLOWED'][m]: print('ARROWS:',m,'->',d)
