#!/bin/sh
# Run in a guest that is a copy of another, while its cables are pulled out: gives it a name, addresses, keys and random
# numbers of its own. What a system doesn't have is passed over. Works with busybox as well as with GNU's tools.
#
# LODGE_HOSTNAME, LODGE_MACHINE_ID, LODGE_SEED; LODGE_MACS: "BEFORE=NOW BEFORE=NOW", in lower case.
set -u
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# Stirred into the kernel's pool, so that copies do not draw the same numbers for keys.
printf %s "$LODGE_SEED" > /dev/urandom

old_name=$(cat /proc/sys/kernel/hostname)
echo "$LODGE_HOSTNAME" > /proc/sys/kernel/hostname
[ -e /etc/hostname ] && echo "$LODGE_HOSTNAME" > /etc/hostname
# Dots in a name are to stand for themselves.
pattern=$(echo "$old_name" | sed 's/\./\\./g')
[ -f /etc/hosts ] && [ "$old_name" != localhost ] &&
  sed -i "s/\([[:space:]]\)$pattern\([[:space:]]\|\.\|\$\)/\1$LODGE_HOSTNAME\2/g" /etc/hosts

if [ -s /etc/machine-id ]; then
  echo "$LODGE_MACHINE_ID" > /etc/machine-id
  [ -f /var/lib/dbus/machine-id ] && [ ! -L /var/lib/dbus/machine-id ] && cp /etc/machine-id /var/lib/dbus/machine-id
fi

names=
for pair in $LODGE_MACS; do
  before=${pair%=*} now=${pair#*=}
  for nic in /sys/class/net/*; do
    mac=
    read -r mac 2>/dev/null < "$nic/address"
    [ "$mac" = "$before" ] || continue
    name=${nic##*/} names="$names ${nic##*/}"
    ip address flush dev "$name" scope global
    # Most drivers take another address while the link is in use.
    ip link set dev "$name" address "$now" 2>/dev/null ||
      { ip link set dev "$name" down && ip link set dev "$name" address "$now" && ip link set dev "$name" up; } || exit 1
  done
  for file in /etc/netplan/*.yaml /etc/systemd/network/* /etc/network/interfaces /etc/network/interfaces.d/* \
    /etc/NetworkManager/system-connections/* /etc/udev/rules.d/*; do
    [ -f "$file" ] && grep -qi "$before" "$file" && sed -i "s/$before/$now/gI" "$file"
  done
  # Until the next boot the address that the device was made with is the old one.
  for file in /run/systemd/network/*; do
    [ -f "$file" ] && sed -i "s/^PermanentMACAddress=$before/MACAddress=$now/I; s/$before/$now/gI" "$file"
  done
done

reload_ssh() {
  if [ -d /run/systemd/system ]; then
    systemctl try-reload-or-restart ssh.service sshd.service
  else
    pid=
    read -r pid < /run/sshd.pid && kill -HUP "$pid"
  fi 2>/dev/null
}

has_keys=
for key in /etc/ssh/ssh_host_*_key; do [ -e "$key" ] && has_keys=yes; done
if [ -n "$has_keys" ]; then
  rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
  for type in ed25519 ecdsa; do ssh-keygen -q -t "$type" -N '' -f "/etc/ssh/ssh_host_${type}_key" < /dev/null; done
  reload_ssh
fi

if [ -d /run/systemd/system ]; then
  systemctl try-restart systemd-networkd.service NetworkManager.service 2>/dev/null
fi

# What takes time, or needs the cables, which are plugged in when this script has ended.
{
  for name in $names; do
    tries=0
    while [ "$(cat "/sys/class/net/$name/carrier" 2>/dev/null)" != 1 ] && [ "$tries" -lt 1200 ]; do
      sleep 0.05
      tries=$((tries + 1))
    done
    if [ -d "/run/udhcpc/$name" ]; then
      touch /run/hostname-given
      ACTION=remove SUBSYSTEM=net INTERFACE=$name /sbin/hotplug
      ACTION=add SUBSYSTEM=net INTERFACE=$name /sbin/hotplug
    elif command -v ifup > /dev/null && [ -e "/run/network/ifstate.$name" ]; then
      ifdown --force "$name"
      ifup "$name"
    fi
  done
  if [ -n "$has_keys" ]; then
    ssh-keygen -A
    reload_ssh
  fi
} < /dev/null > /dev/null 2>&1 &
exit 0
