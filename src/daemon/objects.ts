// The collections of all nouns, over one store.
import { LodgeError } from '../api/errors.ts';
import { type AddressSet } from '../api/address-set.ts';
import { type Group } from '../api/group.ts';
import { type Image } from '../api/image.ts';
import { type InstanceType } from '../api/instance-type.ts';
import { type Network } from '../api/network.ts';
import { type Node } from '../api/node.ts';
import { type Profile } from '../api/profile.ts';
import { type SecurityGroup } from '../api/security-group.ts';
import { type Template } from '../api/template.ts';
import { type Vm } from '../api/vm.ts';
import { type Volume } from '../api/volume.ts';
import { initialSecurityGroupStatus, type ProjectPolicy } from './firewall/firewall-service.ts';
import { initialGroupStatus } from './group/group-service.ts';
import { initialImageStatus } from './image/image-service.ts';
import { initialNetworkStatus } from './network/network-status.ts';
import { initialSourceStatus } from './profile/source-status.ts';
import { SpecSources } from './profile/spec-sources.ts';
import { Collection } from './store/collection.ts';
import { type Log } from './store/informer.ts';
import { type Store } from './store/store.ts';
import { initialTemplateStatus } from './template/template-records.ts';
import { initialVmStatus } from './vm/vm-records.ts';
import { initialVolumeStatus } from './volume/volume-service.ts';

type AnyObject =
  | Node
  | Vm
  | Image
  | Volume
  | Network
  | Template
  | Profile
  | InstanceType
  | Group
  | SecurityGroup
  | AddressSet
  | ProjectPolicy;

export interface Objects {
  nodeObjects: Collection<Node>;
  vmObjects: Collection<Vm>;
  imageObjects: Collection<Image>;
  volumeObjects: Collection<Volume>;
  networkObjects: Collection<Network>;
  templateObjects: Collection<Template>;
  groupObjects: Collection<Group>;
  securityGroupObjects: Collection<SecurityGroup>;
  addressSetObjects: Collection<AddressSet>;
  policyObjects: Collection<ProjectPolicy>;
  sources: SpecSources;
  /** Each of them, to be loaded and closed. */
  all: readonly Pick<Collection<Node>, 'load' | 'close'>[];
}

/** The collections, not loaded yet. */
export function openObjects(store: Store, log: Log): Objects {
  const collection = <Item extends AnyObject>(
    noun: string,
    plural: string,
    initialStatus: (part: { createdAt: string }) => Item['status'],
  ): Collection<Item> => new Collection<Item>({ store, noun, plural, initialStatus, log });
  const nodeObjects = collection<Node>('node', 'nodes', () => {
    throw new LodgeError('internal', 'a node has no status before it was looked at');
  });
  const vmObjects = collection<Vm>('vm', 'vms', ({ createdAt }) => initialVmStatus(createdAt));
  const imageObjects = collection<Image>('image', 'images', initialImageStatus);
  const volumeObjects = collection<Volume>('volume', 'volumes', initialVolumeStatus);
  const networkObjects = collection<Network>('network', 'networks', initialNetworkStatus);
  const templateObjects = collection<Template>('template', 'templates', initialTemplateStatus);
  const groupObjects = collection<Group>('group', 'groups', initialGroupStatus);
  const securityGroupObjects = collection<SecurityGroup>(
    'security-group',
    'security-groups',
    initialSecurityGroupStatus,
  );
  const addressSetObjects = collection<AddressSet>('address-set', 'address-sets', () => ({ usedBy: [] }));
  const policyObjects = collection<ProjectPolicy>('firewall', 'firewalls', () => ({}));
  const sources = new SpecSources(
    collection<Profile>('profile', 'profiles', initialSourceStatus),
    collection<InstanceType>('instance-type', 'instance-types', initialSourceStatus),
  );
  const named = {
    nodeObjects,
    vmObjects,
    imageObjects,
    volumeObjects,
    networkObjects,
    templateObjects,
    groupObjects,
    securityGroupObjects,
    addressSetObjects,
    policyObjects,
  };
  return { ...named, sources, all: [...Object.values(named), sources.profiles, sources.instanceTypes] };
}
