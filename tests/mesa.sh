#!/bin/sh
# A software GPU with matrix units, for tests/units_test.ts on Debian: Mesa's lavapipe from Debian sid, unpacked into a
# folder with a loader and a libc of its own. The system stays as it is.
#
#     sh tests/mesa.sh <folder>; LEVIN_UNITS=<folder>/run deno test -A tests/units_test.ts
set -eu
folder=$(mkdir -p "$1" && cd "$1" && pwd)
mkdir -p "$folder/etc/preferences.d" "$folder/etc/apt.conf.d" "$folder/state/lists/partial" "$folder/dl/partial" "$folder/root"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian sid main" > "$folder/etc/sources.list"
cp /etc/apt/apt.conf.d/* "$folder/etc/apt.conf.d/" 2> /dev/null || true # proxies
: > "$folder/state/status"
cat > "$folder/apt.conf" << CONF
Dir::Etc "$folder/etc"; Dir::Etc::sourcelist "$folder/etc/sources.list"; Dir::Etc::sourceparts "/dev/null";
Dir::State "$folder/state"; Dir::State::status "$folder/state/status";
Dir::Cache "$folder/cache"; Dir::Cache::archives "$folder/dl/";
APT::Install-Recommends "false"; Debug::NoLocking "1";
CONF
export APT_CONFIG="$folder/apt.conf"
apt-get -qq update
apt-get -qq install -y --download-only mesa-vulkan-drivers libstdc++6 libc6
for package in "$folder"/dl/*.deb; do dpkg -x "$package" "$folder/root"; done
libraries=$folder/root/usr/lib/$(uname -m)-linux-gnu
sed "s#\"library_path\": \".*libvulkan_lvp#\"library_path\": \"$libraries/libvulkan_lvp#" \
  "$folder/root/usr/share/vulkan/icd.d/lvp_icd.json" > "$folder/lvp.json"
loader=$(ls "$libraries"/ld-linux-*.so.* | head -n 1)
# The program must be the binary itself: a loader runs no scripts.
cat > "$folder/run" << RUN
#!/bin/sh
program=\$(readlink -f "\$(command -v "\$1")"); shift
VK_ICD_FILENAMES=$folder/lvp.json exec "$loader" --library-path "$libraries" "\$program" "\$@"
RUN
chmod +x "$folder/run"
