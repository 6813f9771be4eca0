// What the installed QEMU and its firmware can do on this node, each with the reason; the API shows it. Pure.
import { type DriverStatus } from '../../api/node.ts';
import { missingForFreeze } from './fork/freeze.ts';
import { type QemuInstallation } from './installation.ts';

type Capability = DriverStatus['capabilities'][string];

export function capabilitiesOf(installation: QemuInstallation): DriverStatus['capabilities'] {
  const display = { isSupported: true, reason: 'QEMU’s VNC server' };
  return {
    pause: { isSupported: true, reason: 'QMP stop and cont' },
    suspend: { isSupported: true, reason: 'Migration to a file' },
    reset: { isSupported: true, reason: 'QMP system_reset' },
    vnc: display,
    screenshot: display,
    serial: { isSupported: true, reason: 'Emulated 16550 serial port' },
    agent: { isSupported: true, reason: 'virtio-serial port org.qemu.guest_agent.0' },
    uefi: canUefi(installation),
    secureBoot: canSecureBoot(installation),
    tpm: canTpm(installation),
    virtiofs: canVirtiofs(installation),
    nmi: { isSupported: true, reason: 'QMP inject-nmi' },
    fork: canFork(installation),
  };
}

function canUefi({ uefi }: QemuInstallation): Capability {
  return uefi
    ? { isSupported: true, reason: `OVMF: ${uefi.codePath}` }
    : { isSupported: false, reason: 'No UEFI firmware is installed: install the package ovmf.' };
}

function canSecureBoot({ uefi }: QemuInstallation): Capability {
  return uefi?.secureBoot
    ? { isSupported: true, reason: `OVMF with Secure Boot: ${uefi.secureBoot.codePath}` }
    : { isSupported: false, reason: 'No UEFI firmware with Secure Boot is installed: install the package ovmf.' };
}

function canTpm({ swtpmPath, version, deviceModels }: QemuInstallation): Capability {
  if (swtpmPath === null) return { isSupported: false, reason: 'swtpm is not installed: install the package swtpm.' };
  return deviceModels.has('tpm-crb')
    ? { isSupported: true, reason: `TPM 2.0 by ${swtpmPath}` }
    : { isSupported: false, reason: `QEMU ${version} was built without TPM.` };
}

function canVirtiofs({ virtiofsdPath, version, deviceModels }: QemuInstallation): Capability {
  if (virtiofsdPath === null)
    return { isSupported: false, reason: 'virtiofsd is not installed: install the package virtiofsd, or use 9p.' };
  return deviceModels.has('vhost-user-fs-pci')
    ? { isSupported: true, reason: `Shared folders by ${virtiofsdPath}` }
    : { isSupported: false, reason: `QEMU ${version} was built without vhost-user-fs.` };
}

function canFork({ migrationCapabilities }: QemuInstallation): Capability {
  const missing = missingForFreeze(migrationCapabilities);
  return missing === null
    ? { isSupported: true, reason: 'Memory saved by mapped-ram, and mapped by the copies' }
    : { isSupported: false, reason: `${missing}.` };
}
