import sys
name,kind,*deps=sys.argv[1:]
head=f'''[package]
name = "waybill-{name}"
version.workspace = true
edition.workspace = true
rust-version.workspace = true
license.workspace = true
publish.workspace = true

'''
body='' 
if kind=='test': body='[[test]]\nname = "it"\npath = "it/main.rs"\n\n[dev-dependencies]\n'
else: body='[dependencies]\n'
body+=''.join(f'{d}.workspace = true\n' for d in deps)+'\n[lints]\nworkspace = true\n'
open(f'{name}/Cargo.toml','w').write(head+body)
